"""The page of the cadence study: every workload, the planned interval, the best one, and those that people set."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.studies.cadence.study import FIXED, LOADS, MACHINES, NEAR, SWEPT, Row
from fluidgate.studies.markdown import table

COLUMNS = (
    "workload",
    "req/s",
    "planned N",
    "best N",
    "planned ÷ best",
    *(f"N = {steps} ÷ best" for steps in (1, *FIXED)),
    "gain, planned / simulated",
    "TPOT, planned ÷ N = 1",
    "TTFT, planned ÷ N = 1",
)


def cadence_page(rows: Sequence[Row], command: str) -> str:
    """Markdown; `command` is what made it."""
    machines = [name for name in MACHINES if any(row.machine == name for row in rows)]
    parts = [
        "# Prompts that share steps: results",
        f"Made by `{command}`; [](cadence.md) explains it. Mean E2E over the best of N = "
        f"{', '.join(map(str, SWEPT))}, means over the seeds; loads are shares of the stability boundary.",
        _counts(rows, machines),
        _throughput(rows),
    ]
    for name in machines:
        for load in LOADS:
            parts += [f"## {MACHINES[name]}, load {load:g}", _table(rows, name, load)]
    return "\n\n".join(parts) + "\n"


def _counts(rows: Sequence[Row], machines: Sequence[str]) -> str:
    near = [f"N = {steps}" for steps in (1, *FIXED)]
    worst = [f"worst, {name}" for name in ("planned", *(f"N = {steps}" for steps in FIXED))]
    lines: list[Sequence[str]] = []
    for name in machines:
        for load in LOADS:
            here = [row for row in rows if (row.machine, row.load) == (name, load)]
            if here:
                close = [sum(row.is_near(row.proposed) for row in here)]
                close += [sum(row.is_near(steps) for row in here) for steps in (1, *FIXED)]
                most = [max(row.over(row.proposed, row.best) for row in here)]
                most += [max(row.over(steps, row.best) for row in here) for steps in FIXED]
                lines.append((name, f"{load:g}", *map(str, close), *map(_ratio, most)))
    shown = table(("machine", "load", "planned N", *near, *worst), lines, numbers=False)
    return f"Workloads of ten with a mean E2E within {NEAR:.0%} of the best N:\n\n{shown}"


def _throughput(rows: Sequence[Row]) -> str:
    ratios = [row.over(row.proposed, 1, "output_throughput") for row in rows]
    return f"Output throughput with the planned N over that with N = 1: {min(ratios):.4f} to {max(ratios):.4f}."


def _table(rows: Sequence[Row], machine: str, load: float) -> str:
    lines: list[Sequence[str]] = []
    for row in rows:
        if (row.machine, row.load) == (machine, load):
            over = [row.over(steps, row.best) for steps in (row.proposed, 1, *FIXED)]
            beside = [row.over(row.proposed, 1, name) for name in ("mean_tpot_ms", "mean_ttft_ms")]
            gains = "–" if row.proposed == 1 else f"{row.gain:.1%} / {1.0 - row.over(row.proposed, 1):.1%}"
            first = (row.workload, f"{row.rate:.3g}", str(row.proposed), str(row.best))
            lines.append((*first, *map(_ratio, over), gains, *map(_ratio, beside)))
    return table(COLUMNS, lines, numbers=False)


def _ratio(value: float) -> str:
    return f"{value:.3f}"
