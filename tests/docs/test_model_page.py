"""The tables of docs/model.md §10 hold what the plan and runs give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fluidgate.cli.options import WorkloadOptions
from fluidgate.engine import EngineConfig
from fluidgate.hardware import get_hardware
from fluidgate.metrics import summarize
from fluidgate.runs import plan_for, simulate
from fluidgate.workload import Patience, parse_timeout

PAGE = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
COLUMNS = (("60", None), ("exp:60", None), (None, "10"), (None, "exp:10"))
"""Timeouts to the last and the first token."""


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below a heading row that begins so."""
    below = PAGE[PAGE.index(heading) :].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in below[: below.index("") if "" in below else None]]
    assert all(len(row) == len(COLUMNS) + 2 for row in rows)
    return rows


@pytest.mark.parametrize("row", table("| `--rate` | load |"), ids=lambda row: f"rate {row[0]}")
def test_the_share_completed_by_plan_and_run(row: list[str]) -> None:
    rate, load, *cells = row
    machine, config = get_hardware("llama-3.1-8b", "l40s"), EngineConfig()
    options = WorkloadOptions(preset="azure-conv-2023", rate=float(rate), burstiness=1.0, requests=20_000)
    requests = options.load()
    for (last, first), cell in zip(COLUMNS, cells, strict=True):
        patience = Patience(parse_timeout("timeout", last), parse_timeout("ttft", first))
        plan = plan_for(requests, machine, config, patience=patience)
        assert plan.deadlines is not None
        stock = plan.deadlines.row.partition(" with stock admission")[0]
        ran = summarize(simulate(patience.of(requests, options.seed), machine, "greedy", config=config)).success_share
        planned, run = cell.split(", ")
        assert f"{plan.stability.load:.0%}" == load
        printed = [float(share) / 100 for share in re.findall(r"([\d.]+)%", stock)]
        assert [float(share) for share in planned.split(" to ")] == pytest.approx(printed, abs=6e-4)
        assert float(run) == pytest.approx(ran, abs=6e-4)
