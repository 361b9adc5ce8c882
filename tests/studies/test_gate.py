"""The gate experiment: what a run counts, which runs there are, and the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import RateLimited
from fluidgate.runs import Runner
from fluidgate.studies.gate import PARTS, GateResult, Scale, gate_page, run_gate, write_curves
from fluidgate.studies.gate.cases import CELLS, FURTHER_CELLS, LOADED, case
from fluidgate.studies.gate.curves import baselines, over_baseline
from fluidgate.studies.gate.runs import GateRun, GateRuns, bound_share, boundary
from fluidgate.studies.gate.study import CURVES, FIRST_TUNING_SEED, TUNED, Cell, Row
from fluidgate.studies.gate.targets import judged_targets
from fluidgate.workload import Workload

SMALL = Scale(requests=100, seeds=2, tuning_seeds=1)


def test_paced_equal_requests_are_served_at_the_bound() -> None:
    # 64 prompt and 64 output tokens on 64·16 blocks: x* = C/E[a], and pacing at it keeps memory full.
    hardware = Hardware("one block per 16 tokens", StepTime(c0=0.01, c_tok=1e-5, c_kv=1e-7), 64 * 16 + 1)
    n = 4000
    workload = Workload(np.zeros(n), np.full(n, 64), np.full(n, 64))
    a = 64 * 64 + 64 * 63 / 2 + 64 * 7.5
    pace = 64 * 16 * 16 / a
    config = EngineConfig(max_num_seqs=1024, max_num_batched_tokens=4096, enable_prefix_caching=False)
    assert bound_share(run(workload, hardware, RateLimited(pace), config)) == pytest.approx(1.0, abs=0.02)
    half = bound_share(run(workload, hardware, RateLimited(pace / 2), config))
    work_s = 1e-5 * 127 + 1e-7 * (a - 64 * 7.5)
    assert half == pytest.approx((work_s + 0.01 / pace) / (work_s + 0.01 / (pace / 2)), rel=0.02)


def test_a_window_without_admissions_has_no_share() -> None:
    workload = Workload(np.zeros(3), np.full(3, 4), np.full(3, 4))
    records = run(workload, Hardware("large", StepTime(c0=0.01), 1000), RateLimited(50.0))
    assert np.isnan(bound_share(records))


@pytest.mark.parametrize("name", [*CELLS, *FURTHER_CELLS, *LOADED, "long outputs"])
def test_every_case_draws_what_it_is_asked_for(name: str) -> None:
    known = case(name)
    first, again, other = known.draw(50, 3), known.draw(50, 3), known.draw(50, 4)
    assert len(first) == 50
    assert first.digest == again.digest
    assert first.digest != other.digest or "p512" in name or name == "fixed"  # there only arrivals differ


def test_drift_doubles_the_rate_and_triples_the_outputs() -> None:
    drift, steady = case("drift").draw(4000, 1), case("azure-conv-2023").draw(4000, 1)
    assert (drift.output_tokens[2000:] == 3 * steady.output_tokens[2000:]).all()
    assert (drift.output_tokens[:2000] == steady.output_tokens[:2000]).all()
    assert np.diff(drift.arrival_s[2000:]) == pytest.approx(np.diff(steady.arrival_s[2000:]) / 2)


def test_the_cells_span_small_and_large_memories() -> None:
    # n* = C·E[o]/E[a] and η = c0/ΔT by hand, with 70 µs per prompt token and 30 µs per decode
    for name, residents, eta in (
        ("fixed", 142, 0.19),
        ("three types", 730, 0.16),
        ("chat", 91, 0.14),
        ("reasoning", 74, 0.23),
        ("three types, 16k", 106, 0.57),
        ("chat, 16k", 13, 0.53),
        ("reasoning, 40k", 27, 0.45),
    ):
        stable = boundary(name, 4000)
        assert stable.residents == pytest.approx(residents, rel=0.1)
        assert stable.eta == pytest.approx(eta, abs=0.02)


def test_loads_are_multiples_of_the_boundary() -> None:
    runs = GateRuns(None)
    light = runs(GateRun("azure-conv-2023", "no cache", 0.3, 300, 0, "greedy"))
    heavy = runs(GateRun("azure-conv-2023", "no cache", 1.5, 300, 0, "greedy"))
    assert light["mean_ttft_ms"] < heavy["mean_ttft_ms"]
    assert light["completed"] == heavy["completed"] == light["offered"] == 300


def test_priors_change_the_plan_alone() -> None:
    runs = GateRuns(None)
    for prior in ("right", "half", "double", "50 requests", "none"):
        found = runs(GateRun("chat, 16k", "no cache", None, 150, 0, "fluid", prior=prior))
        assert found["completed"] == 150


@pytest.fixture(scope="module")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> GateResult:
    results = tmp_path_factory.mktemp("gate") / "gate.jsonl"
    first = run_gate(["long-outputs"], SMALL, runner=Runner(results=results))
    lines = len(results.read_text().splitlines())
    again = run_gate(["long-outputs"], SMALL, runner=Runner(results=results))
    assert len(results.read_text().splitlines()) == lines  # nothing is run twice
    for row, other in zip(first.rows, again.rows, strict=True):
        assert row.policy == other.policy
        assert all(np.array_equal(row.values[key], other.values[key], equal_nan=True) for key in row.values)
    return again


def test_the_page_shows_every_policy_and_judges_the_targets(small_result: GateResult) -> None:
    page = gate_page(small_result)
    cell = small_result.cells("long-outputs")[0]
    for policy in small_result.policies("long-outputs", cell):
        assert f"| {policy} |" in page
    greedy = small_result.row("long-outputs", cell, "greedy")
    assert f"| greedy | {greedy.values['preemptions'].mean():.0f} |" in page
    assert re.search(r"\| preemptions of 300 \| ≤ 20 \| [\d.]+ \| (met|missed in 1 of 1) \| long outputs \|", page)


def test_baselines_are_tuned_on_seeds_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = PARTS["cells"]
    cell = Cell("chat, 16k", "no cache", None, 150)
    monkeypatch.setitem(PARTS, "cells", type(part)(lambda s, m: [cell], lambda c, n: ("greedy", "fluid"), part.tunes))
    results = tmp_path / "gate.jsonl"
    found = run_gate(["cells"], SMALL, runner=Runner(results=results))
    assert found.policies("cells", cell) == ["greedy", TUNED, "fluid"]
    tuned = found.tuned[cell]._asdict()
    best = GateRuns(None)(GateRun(cell.case, "no cache", None, 150, FIRST_TUNING_SEED, "greedy", **tuned))
    stock = GateRuns(None)(GateRun(cell.case, "no cache", None, 150, FIRST_TUNING_SEED, "greedy", 0.0))
    assert best["mean_e2el_ms"] <= stock["mean_e2el_ms"]
    page = gate_page(found)
    assert "| chat, 16k |" in page.replace("| cell |", "")
    assert "Service rate ÷ fluid bound" in page


def rows_of(cell: Cell, points: dict[str, tuple[float, float]]) -> tuple[Row, ...]:
    """Two seeds each, a hundredth apart in rate, by policy; (share of stalls, rate)."""
    return tuple(
        Row("curves", cell, policy, {"stalled_share": np.full(2, stalls), "bound_share": rate + np.array([0.0, 0.01])})
        for policy, (stalls, rate) in points.items()
    )


def test_a_baseline_is_compared_with_the_curve_at_its_stalls() -> None:
    cell = Cell("chat, 16k", "no cache", None, 150)
    knob = dict(zip(CURVES["fluid"], [(0.1, 0.8), (0.2, 0.9), (0.3, 0.7), *[(0.4, 0.95)] * 6], strict=True))
    useless = "where a setting is useless"
    base = {"on it": (0.15, 0.85), "tighter": (0.0, 0.7), useless: (0.3, 0.92), "laxer": (0.9, 0.9)}
    result = GateResult(SMALL, rows_of(cell, knob | base), {})
    above = {row.policy: over_baseline(result, row) for row in baselines(result, cell)}
    assert {name: round(found.mean, 6) for name, found in above.items()} == {
        "on it": 0.0,
        "tighter": 0.1,
        useless: -0.02,
        "laxer": 0.05,
    }
    assert all(found.high == pytest.approx(found.mean) for found in above.values())  # paired: the seeds cancel
    missed = next(target for target in judged_targets(result) if target.what.startswith("curves"))
    assert (missed.verdict, missed.where) == ("missed in 1 of 4", f"chat, 16k, {useless}")


def test_the_curves_are_drawn_as_svg_and_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = PARTS["curves"]
    cell = Cell("chat, 16k", "no cache", None, 150)
    monkeypatch.setitem(PARTS, "curves", type(part)(lambda s, m: [cell], part.policies, part.tunes))
    result = run_gate(["curves"], SMALL)
    svg, pdf = write_curves(result, tmp_path / "new")
    assert (svg.name, pdf.name) == ("gate-chat-16k.svg", "gate-chat-16k.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")
    text = svg.read_text()
    for label in (
        "fluid",
        "watermark",
        "past-future",
        "interval",
        "concurrency-cap",
        TUNED,
        "service rate ÷ fluid bound",
    ):
        assert f">{label}<" in text
    assert write_curves(result, tmp_path / "again")[0].read_text() == text
    assert "| tuned vLLM |" in gate_page(result)
    with pytest.raises(InputError, match="the part curves, which was not run"):
        write_curves(GateResult(SMALL, (), {}), tmp_path)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown part 'cell'; did you mean cells\? Known: long-outputs, cells"):
        run_gate(["cell"], SMALL)
    with pytest.raises(InputError, match=r"unknown case 'chatt'; did you mean chat"):
        case("chatt")
    with pytest.raises(InputError, match="case mooncake needs its trace"):
        case("mooncake")
    with pytest.raises(InputError, match="at least 100 requests, 2 seeds"):
        Scale(seeds=1)
