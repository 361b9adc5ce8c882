"""How long the page of `fluidgate explore` waits for an answer, by workload.

    make bench            or: python benchmarks/explore.py

Every answer is to a rate that was not asked before, around the stability boundary, so that nothing of it is kept.
Processor time of this process: on an idle machine an answer takes as long.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from rich.console import Console
from rich.table import Table

from fluidgate.explore.answer import answer
from fluidgate.explore.app import warm_up
from fluidgate.explore.settings import Settings
from fluidgate.workload import PRESETS

LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.3)
TARGET_MS = 100.0


def main() -> None:
    """Print the table."""
    warm_up(Settings(), print)
    table = Table(title=f"Processor time of an answer, ms\n(target: below {TARGET_MS:g})")
    for heading in ("workload", "median", "largest"):
        table.add_column(heading, justify="left" if heading == "workload" else "right")
    for preset in PRESETS:
        spent = times_ms(Settings(preset=preset))
        table.add_row(preset, f"{median(spent):.0f}", f"{max(spent):.0f}")
    Console(width=100).print(table)


def times_ms(settings: Settings) -> list[float]:
    """Milliseconds of an answer at each of `LOADS`."""
    boundary = answer(settings)["boundary_rate"]
    spent = []
    for load in LOADS:
        begun = time.process_time()
        answer(replace(settings, rate=load * boundary))
        spent.append(1e3 * (time.process_time() - begun))
    return spent


if __name__ == "__main__":
    main()
