"""The deadlines study: its traffic, what it counts against closed forms and the model, how it resumes and judges."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, nan
from pathlib import Path

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.runs import Runner
from fluidgate.studies.deadlines import DeadlinesResult, deadlines_page, run_deadlines, study, write_figures
from fluidgate.studies.deadlines.cases import (
    CELLS,
    FIXED,
    LOADS,
    SURGE,
    TTFT,
    WORKLOADS,
    Cell,
    boundary_rate,
    bounds,
    quartile_of,
    span,
    traffic,
)
from fluidgate.studies.deadlines.changes import (
    BEFORE,
    CHANGED_POLICIES,
    STEADY,
    ChangeRow,
    Course,
    changing,
    course,
)
from fluidgate.studies.deadlines.study import (
    BEST_CAP,
    CAPS,
    DROPPING,
    FLUID,
    KNOWN,
    POLICIES,
    QUARTERS,
    SHAPE,
    STOCK,
    DeadlineRun,
    Row,
    numbers,
    specs,
    tuned_caps,
)
from fluidgate.studies.deadlines.targets import judged_targets
from fluidgate.studies.deadlines.waits import START_WINDOW, _rates, wait_errors
from fluidgate.studies.target import Target
from fluidgate.workload import Workload

OVERLOAD = Cell(FIXED, 1.12, "60 s")
ONE_SEAT = Hardware("one request at a time", StepTime(c0=0.1), 1000)


def one_by_one(workload: Workload) -> RunRecords:
    """Served in order, in 0.1 s a token."""
    return run(workload, ONE_SEAT, Greedy(), EngineConfig(max_num_seqs=1, async_scheduling=False))


def row(cell: Cell, **success: float) -> Row:
    """Two seeds alike; policies that are not named complete half, and nothing is wasted."""
    made = {name: {key: np.zeros(2) for key in SHAPE} for name in POLICIES}
    for name in POLICIES:
        made[name]["success"] = np.full(2, success.get(name.replace("-", "_"), 0.5))
        made[name]["by_output"] = made[name]["by_prompt"] = np.full((2, QUARTERS), 0.5)
    return Row(cell, made, cap=10)


def judged(*rows: Row, part: str = "cells", changes: tuple[ChangeRow, ...] = ()) -> dict[str, Target]:
    result = DeadlinesResult(2, 1000, (part,), rows, changes)
    return {target.what.partition(":")[0]: target for target in judged_targets(result)}


def test_every_workload_load_and_patience_is_a_cell() -> None:
    assert len(CELLS) == len(set(CELLS)) == len(WORKLOADS) * len(LOADS) * 4
    assert {cell.fluid for cell in CELLS if cell.patience == TTFT} == {"fluid:ttft_timeout_s=2"}
    assert OVERLOAD.fluid == "fluid:timeout_s=60"
    assert (OVERLOAD.fits, Cell(FIXED, 1.12, "30 s").fits) == (1.0, 0.0)  # 1,448 iterations take 48 s
    assert DROPPING in specs(Cell(FIXED, 1.12, "30 s"), 5)
    assert DROPPING not in specs(OVERLOAD, 5)


def test_traffic_surges_until_stocks_queue_stands() -> None:
    """Poisson counts, within four standard deviations; the surge lasts W/(load - 1)."""
    over, load = span(OVERLOAD, 2000), traffic(OVERLOAD, 2000, 3)
    assert over.queued_s - over.full_s == pytest.approx(bounds(OVERLOAD).stock.wait_s / (SURGE - 1.0))
    boundary = boundary_rate(FIXED)
    for begin_s, end_s, rate in (
        (0.0, over.full_s, OVERLOAD.load),
        (over.full_s, over.queued_s, SURGE),
        (over.queued_s, over.stop_s, OVERLOAD.load),
    ):
        came = ((load.arrival_s >= begin_s) & (load.arrival_s < end_s)).sum()
        expected = (end_s - begin_s) * rate * boundary
        assert abs(came - expected) < 4 * np.sqrt(expected)
    assert (load.timeout_s == 60.0).all()
    assert np.isinf(load.ttft_timeout_s).all()


def test_below_the_boundary_nothing_surges() -> None:
    over = span(replace(OVERLOAD, load=0.9), 2000)
    assert over.queued_s == over.full_s == over.begin_s


def test_a_change_doubles_what_it_says() -> None:
    for change in ("rate", "lengths"):
        over, load = course(FIXED, change), changing(FIXED, change, 1)
        later = load.arrival_s >= over.change_s
        assert set(load.output_tokens[~later]) == {1448}
        assert set(load.output_tokens[later]) == {2896 if change == "lengths" else 1448}
        for rows, rate, seconds in (
            (~later, over.rates[0], over.change_s),
            (later, over.rates[1], load.arrival_s[-1] - over.change_s),
        ):
            assert abs(rows.sum() - rate * seconds) < 4 * np.sqrt(rate * seconds)
    assert course(FIXED, "rate").load == pytest.approx(1.5)


def test_numbers_of_a_run_worked_by_hand() -> None:
    # 10 tokens take 1 s. The second would end at 2 s, and its client leaves after 1.5; the third starts then.
    load = Workload(
        np.array([0.0, 0.0, 0.2]), np.full(3, 8), np.array([10, 10, 10]), timeout_s=np.array([inf, 1.5, inf])
    )
    found = numbers(one_by_one(load), np.ones(3, bool), np.array([5, 10, 15, 20]), np.array([8, 8]))
    assert found["success"] == pytest.approx(2 / 3)
    assert found["wasted"] == pytest.approx(0.5 / 2.5, rel=0.1)
    assert found["by_output"] == pytest.approx([nan, 2 / 3, nan, nan], nan_ok=True)
    assert np.isnan(found["by_prompt"]).all()


def test_quarters_are_those_of_the_known_lengths() -> None:
    known = np.arange(1, 101)
    assert quartile_of(np.array([1, 25, 26, 60, 76, 500]), known).tolist() == [0, 0, 1, 2, 3, 3]
    assert quartile_of(np.array([3, 4]), np.full(10, 3)).tolist() == [-1, -1]


def test_a_wait_is_told_from_the_requests_ahead() -> None:
    """One seat, a service of 1 s, an arrival each 0.5 s: who finds N others waits N to N + 1 s."""
    load = Workload(0.5 * np.arange(200.0) + 0.25, np.full(200, 8), np.full(200, 10))
    errors = wait_errors(one_by_one(load), 60.0, 90.0)
    assert len(errors) == 60
    assert np.abs(errors).max() < 1.0 / 25.0  # more than 25 are before each


def test_no_wait_is_told_where_nobody_waits() -> None:
    load = Workload(2.0 * np.arange(50.0), np.full(50, 8), np.full(50, 10))
    assert len(wait_errors(one_by_one(load), 0.0, 100.0)) == 0


def test_starts_fade_exponentially() -> None:
    starts, window_s = np.arange(1.0, 101.0), 20.0
    expected = sum(exp((s - 100.5) / window_s) for s in starts) / (window_s * (1.0 - exp(-100.5 / window_s)))
    assert _rates(starts, np.array([0.5, 100.5]), window_s) == pytest.approx([0.0, expected])
    assert expected == pytest.approx(1.0, rel=0.05)
    assert START_WINDOW == 512


def test_runs_are_within_what_the_model_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal requests at 112%: stock completes next to nothing, and no policy more than 1/1.12, chance included."""
    monkeypatch.setattr(study, "CAPS", (0, 20))
    model = bounds(OVERLOAD)
    assert model.any_order == pytest.approx(1 / 1.12, rel=0.01)
    result = run_deadlines(["cells", "waits"], requests=1000, seeds=2, cells=[OVERLOAD])
    (found,) = result.rows
    assert model.stock.completed <= found.mean(STOCK) <= 0.1
    for policy in (FLUID, KNOWN, BEST_CAP):
        assert 0.5 < found.mean(policy) < model.any_order + 0.1
    assert found.mean(STOCK, "wasted") > 0.8
    assert found.cap in (0, 20)
    page = deadlines_page(result, "fluidgate experiment deadlines")
    assert f"| completed ÷ stock's, {FIXED}, 60 s, load 1.12 | ≥ 2 |" in page
    assert f"## {FIXED}, timeout 60 s" in page
    assert "Changes midway" not in page


def test_a_results_file_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[DeadlineRun] = []

    def fake(self: study.DeadlineRuns, job: DeadlineRun) -> dict[str, object]:
        ran.append(job)
        cap = float(job.policy.partition("=")[2] or 0) if job.policy.startswith("queue-cap") else 0.0
        quarters: dict[str, object] = {"by_output": [0.5] * QUARTERS, "by_prompt": [0.5] * QUARTERS}
        return dict.fromkeys(study.NUMBERS, 0.1 * job.seed + 1e-3 * cap) | quarters

    monkeypatch.setattr(study.DeadlineRuns, "__call__", fake)
    runner = Runner(results=tmp_path / "deadlines.jsonl")
    first = run_deadlines(["cells"], requests=200, seeds=2, cells=[OVERLOAD], runner=runner)
    done = len(ran)
    assert done == len(set(ran)) == 2 * len(POLICIES) + study.TUNING_SEEDS * len(CAPS)
    again = run_deadlines(["cells", "waits"], requests=200, seeds=3, cells=[OVERLOAD], runner=runner)
    assert {job.seed for job in ran[done:]} == {2}
    assert again.rows[0].cap == first.rows[0].cap == max(CAPS)
    assert again.rows[0].values[FLUID]["success"] == pytest.approx([0.0, 0.1, 0.2])
    with pytest.raises(InputError, match="requests"):
        run_deadlines(["cells"], requests=300, seeds=2, cells=[OVERLOAD], runner=runner)


def test_a_cell_that_takes_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "MOST_REQUESTS", 0)
    result = run_deadlines(["cells"], requests=200, seeds=2, cells=[OVERLOAD])
    assert (result.rows, result.left_out) == ((), (OVERLOAD,))


def test_of_equal_caps_the_largest_is_taken() -> None:
    """It is the one that does least."""
    caps = tuned_caps([OVERLOAD], lambda jobs: [{"success": 1.0} for _ in jobs])
    assert caps == {OVERLOAD: max(CAPS)}


def test_targets_are_missed_where_they_are() -> None:
    light = Cell("lmsys", 0.5, "60 s")
    met = judged(row(OVERLOAD, greedy=0.25), row(light))
    assert all(target.verdict.startswith("met") for target in met.values())
    found = judged(row(OVERLOAD, fluid=0.46, known_deadlines=0.5, greedy=0.0), row(light, fluid=0.49))
    known = found["completed ÷ known lengths', where 90% of services fit"]
    assert (known.verdict, known.measured, known.where) == ("missed in 1 of 2", "0.920", str(OVERLOAD))
    cap = found["completed ÷ the best swept queue cap's"]
    assert cap.verdict == "missed in 2 of 2, beyond the paired 95% interval in 2 of them"
    assert found["completed ÷ stock's, loads below 1"].verdict == "missed in 1 of 1"
    assert found[f"completed ÷ stock's, {FIXED}, 60 s, load 1.12"].measured == "stock completes nothing"


def test_waste_counts_where_stock_wastes() -> None:
    wasteful, thrifty = row(OVERLOAD), row(Cell("lmsys", 2.0, "60 s"))
    for made in (wasteful, thrifty):
        made.values[FLUID]["wasted"] = np.array([0.04, 0.07])
    wasteful.values[STOCK]["wasted"] = np.full(2, 0.41)
    thrifty.values[STOCK]["wasted"] = np.full(2, 0.39)
    assert judged(wasteful, thrifty)["busy time wasted, where stock wastes over 40%"].verdict == "missed in 1 of 1"


def test_waits_are_judged_above_the_boundary() -> None:
    told, light = row(OVERLOAD), row(Cell("lmsys", 0.5, "60 s"))
    for made, error in ((told, 0.1), (light, 9.0)):
        made.values[FLUID] |= {"told": np.array([100.0, 0.0]), "wait_error": np.array([error, nan])}
        made.values[FLUID]["wait_within"] = np.array([0.8, nan])
    found = judged(told, light, part="waits")
    assert found["wait told at arrival"].verdict == "met in 1 of 1"
    assert found["waits told within 50%"].verdict == "missed in 1 of 1"


@pytest.mark.parametrize(("third", "verdict"), [(0.57, "met in 1 of 1"), (0.56, "missed in 1 of 1")])
def test_a_change_is_over_after_two_services(third: float, verdict: str) -> None:
    windows = np.full((2, BEFORE + 4 + STEADY), 0.6)
    windows[:, BEFORE : BEFORE + 2] = 0.1
    windows[:, BEFORE + 2] = third
    made = ChangeRow(FIXED, "rate", Course(48.0, (1.0, 2.0), 1.5, 12), dict.fromkeys(CHANGED_POLICIES, windows))
    (target,) = judged(part="changes", changes=(made,)).values()
    assert target.verdict == verdict
    page = deadlines_page(DeadlinesResult(2, 1000, ("changes",), (), (made,)), "x")
    assert ("| yes (0.95) |" in page) == (third == 0.57)


def test_figures_are_of_the_cells(tmp_path: Path) -> None:
    result = DeadlinesResult(2, 1000, ("cells",), (row(OVERLOAD), row(replace(OVERLOAD, load=2.0))), ())
    assert {path.name for path in write_figures(result, tmp_path)} == {"deadlines-60-s.svg", "deadlines-60-s.pdf"}
    with pytest.raises(InputError, match="add --part cells"):
        write_figures(replace(result, parts=("waits",)), tmp_path)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="unknown part 'cell'; did you mean cells"):
        run_deadlines(["cell"], requests=100, seeds=2)
