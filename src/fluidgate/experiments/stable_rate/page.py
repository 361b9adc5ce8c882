"""The page of the plan-quality study: every pair, its error, and where the rest went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluidgate.experiments.stable_rate.quality import GOAL, QUALITY_POLICIES, Quality

COLUMNS = (
    "workload",
    "machine",
    "least limit",
    "n*",
    "η",
    "predicted",
    "simulated",
    "interval",
    "by",
    "error",
    "recompute",
    "under-use",
)


def quality_page(found: Sequence[Quality], command: str) -> str:
    """Markdown; `command` is what made it."""
    errors = np.array([quality.error for quality in found])
    within = int((np.abs(errors) <= GOAL).sum())
    parts = (
        "# Plan quality: results",
        f"Made by `{command}`; [](plan-quality.md) explains it. Rates in requests per second; simulated is the "
        f"largest of {', '.join(QUALITY_POLICIES)}.",
        f"**{within} of {len(found)} pairs are predicted within {GOAL:.0%}**; the median error is "
        f"{np.median(errors):.1%}, the largest {errors[np.abs(errors).argmax()]:.1%}.",
        _table(COLUMNS, [_cells(quality) for quality in found]),
        "## Every policy, as a share of the predicted rate",
        _table(
            ("workload", "machine", *QUALITY_POLICIES),
            [(q.pair.workload, q.rates[0].setting.label, *(f"{rate.share:.3f}" for rate in q.rates)) for q in found],
        ),
    )
    return "\n\n".join(parts) + "\n"


def _cells(quality: Quality) -> tuple[str, ...]:
    best = quality.best
    return (
        quality.pair.workload,
        best.setting.label,
        best.limit,
        f"{best.residents:.0f}",
        f"{best.eta:.2f}",
        f"{best.boundary_rate:.4g}",
        f"{best.rate:.4g}",
        f"{best.low:.4g}–{best.high:.4g}",
        best.policy,
        f"{quality.error:.1%}",
        f"{best.recompute_loss:.1%}",
        f"{1.0 - best.share - best.recompute_loss:.1%}",
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
