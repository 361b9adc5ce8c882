"""The page of the plan-quality study: every pair, its error, and where the rest went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluidgate.studies.markdown import table
from fluidgate.studies.plan_quality.study import GOAL, QUALITY_POLICIES, Quality

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
    "fluctuation",
)


def quality_page(qualities: Sequence[Quality], command: str) -> str:
    """Markdown; `command` is what made it."""
    errors = np.array([quality.error for quality in qualities])
    within = int((np.abs(errors) <= GOAL).sum())
    parts = (
        "# Plan quality: results",
        f"Made by `{command}`; [](plan-quality.md) explains it. Rates in requests per second; simulated is the "
        f"largest of {', '.join(QUALITY_POLICIES)}. Requests of any length are served, with 256 seats and 2,048 "
        "tokens per iteration.",
        f"**{within} of {len(qualities)} pairs are predicted within {GOAL:.0%}**; the median error is "
        f"{_percent(float(np.median(errors)))}, the largest {_percent(float(errors[np.abs(errors).argmax()]))}.",
        table(COLUMNS, [_cells(quality) for quality in qualities], numbers=False),
        f"## Pairs with an error above {GOAL:.0%}",
        "\n".join(_reason(quality) for quality in qualities if abs(quality.error) > GOAL) or "None.",
        "## Every policy, as a share of the predicted rate",
        table(
            ("workload", "machine", *QUALITY_POLICIES),
            [
                (q.pair.workload, q.rates[0].setting.label, *(f"{rate.share:.3f}" for rate in q.rates))
                for q in qualities
            ],
            numbers=False,
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
        _percent(quality.error),
        _percent(best.recompute_loss),
        _percent(1.0 - best.share - best.recompute_loss),
        _percent(best.fluctuation_cost),
    )


def _reason(quality: Quality) -> str:
    best = quality.best
    return (
        f"- {quality.pair.workload}, {best.setting.label}: {_percent(quality.error)}. {best.limit.capitalize()} binds "
        f"{best.residents:.0f} residents at η = {best.eta:.2f}. Keeping one standard deviation of what they hold free "
        f"costs {_percent(best.fluctuation_cost)}; under-use took "
        f"{_percent(1.0 - best.share - best.recompute_loss)}, recomputation {_percent(best.recompute_loss)}."
    )


def _percent(share: float) -> str:
    return f"{round(share, 3) + 0.0:.1%}"  # + 0.0: no minus sign before a zero
