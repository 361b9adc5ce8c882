"""The paper's studies: closed forms against the engine, the cap's thresholds, and the page with its claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import ConcurrencyCap, Greedy, RateLimited
from fluidgate.runs import Runner
from fluidgate.studies.paper import (
    PARTS,
    PaperResult,
    Scale,
    claims,
    cycle,
    memory,
    paper_page,
    run_paper,
    scaling,
    study,
)
from fluidgate.studies.paper.figures import write_paper_figures
from fluidgate.studies.paper.runs import PaperRun, completion_rate, mean_e2e_s, paper_run, service_rate
from fluidgate.studies.paper.settings import (
    CAP_ALONE,
    FITTED,
    FOUR_TERM,
    LARGE,
    LINEAR,
    PUBLISHED_CAP,
    SARATHI,
    SEARCHED,
    STRICT,
    STUDIES,
    VIDUR,
    VLLM,
    capped_policy,
    machine,
    schedulers,
)
from fluidgate.studies.paper.verdicts import judged
from fluidgate.workload import Workload, generate

SMALL = Scale(requests=300, seeds=2)


def greedy_by_hand(iterations: int) -> int:
    """Completions of the toy example: d in decode, w waiting, 12 tokens; each decode ends with two of them.

    Decodes that do not fit evict the last, who start again; without an eviction the queue enters what is left.
    """
    done, decoding, waiting = 0, 3, 6
    for iteration in range(iterations):
        fit = min(decoding, 6)
        evicted = decoding - fit
        entering = 0 if evicted else min(waiting, 12 - 2 * fit)
        done += fit if iteration >= iterations // 2 else 0
        waiting += evicted - entering + 4
        decoding = entering
    return done


def test_the_toy_example_loses_a_quarter_to_evictions() -> None:
    # C = 12 = 4·1 + 4·2 carries 4 completions per iteration; greedy falls to cohorts of 6 every other iteration.
    assert cycle.toy_example(Greedy()) == greedy_by_hand(200) / 100 == 3.0
    assert cycle.toy_example(cycle.toy_wait()) == 4.0
    assert cycle.toy_example(RateLimited(4.0)) == 4.0


@pytest.mark.parametrize(("prompt", "output"), [(10, 100), (100, 100), (512, 20)])
def test_a_saturated_greedy_queue_runs_at_the_limit_cycle(prompt: int, output: int) -> None:
    # x* = C ÷ Σ (l + i - 1), i = 1..o; in the cycle a cohort that fills C at its end completes every o iterations.
    kv = sum(prompt + i - 1 for i in range(1, output + 1))
    capacity = cycle.COHORT * (prompt + output - 1)
    assert cycle.largest_pace(prompt, output) == pytest.approx(capacity / kv)
    assert cycle.cycle_share(prompt, output) == pytest.approx((cycle.COHORT / output) / (capacity / kv))
    greedy = cycle.cycle_run(cycle.CycleRun(prompt, output, "greedy", 3_000))
    assert greedy["per_iteration"] == pytest.approx(cycle.COHORT / output, rel=1e-6)
    assert greedy["restarts"] > 0
    paced = cycle.cycle_run(cycle.CycleRun(prompt, output, "rate-limited", 3_000))
    assert paced["per_iteration"] == pytest.approx(0.98 * capacity / kv, rel=0.01)
    assert paced["restarts"] == 0


def test_a_backlog_never_leaves_the_cycle_above_its_rate() -> None:
    runs = {
        (load, policy): cycle.cycle_run(cycle.CycleRun(10, 100, policy, 8_000, 0, load, True))["growth"]
        for load in (0.5, 0.7)
        for policy in ("greedy", "rate-limited")
    }
    assert runs[0.7, "greedy"] > 0.1  # 1 - 0.546/0.7 = 0.22 of the arrivals stay behind
    assert runs[0.7, "rate-limited"] < 0
    assert runs[0.5, "greedy"] < 0


def test_the_fluid_memory_is_the_papers() -> None:
    # The table of section 6.2 from two parameters, and its crossing with C.
    for rate, tokens in ((50, 34_377), (60, 55_758), (70, 100_327), (80, 250_509)):
        assert memory.fluid_memory(rate) == pytest.approx(tokens, rel=1e-4)
    assert memory.crossing_rate() == pytest.approx(74.1, abs=0.05)
    assert memory.fluid_memory(memory.crossing_rate()) == pytest.approx(137_000, rel=1e-9)
    assert memory.fluid_memory(90.0) == float("inf")


def test_a_server_that_keeps_up_holds_the_fluid_memory() -> None:
    found = memory.memory_run(memory.MemoryRun(40.0, 1, 12_000))
    assert found["kv_tokens"] == pytest.approx(found["predicted_tokens"], rel=0.02)


def test_a_moderate_number_of_segments_guarantees_most() -> None:
    rates = [memory.guaranteed_rate(count, "mean") for count in memory.SEGMENT_COUNTS]
    # L = 1: n_1 stages of 59 + 249.5 tokens on 500 stages, with 1% of slack in time.
    kv = 499 * (58.6 + 249)
    entry = 137_000 / kv
    assert rates[0] == pytest.approx(entry / (1.01 * (0.0106076 + 4.01358e-7 * 137_000)), rel=0.02)
    assert max(rates) > rates[-1]
    assert max(rates) > 2 * rates[0]


def test_measures_on_runs_worked_by_hand() -> None:
    # Seats for 2, outputs of 5, 1 s per iteration: 2 completions per 5 s whatever comes first.
    workload = Workload(np.zeros(200), np.full(200, 4), np.full(200, 5))
    config = EngineConfig(max_num_seqs=2)
    records = run(workload, Hardware("ample", StepTime(c0=1.0), 1_000), Greedy(), config)
    assert service_rate(records) == pytest.approx(0.4)
    assert np.isnan(completion_rate(records))
    spaced = replace(workload, arrival_s=10.0 * np.arange(200.0))
    records = run(spaced, Hardware("ample", StepTime(c0=1.0), 1_000), ConcurrencyCap(1), config)
    assert mean_e2e_s(records) == pytest.approx(5.0)
    assert completion_rate(records) == pytest.approx(0.1, rel=0.02)


def test_thresholds_add_up_to_the_cap() -> None:
    for name, segments in (("p512-d20", 1), ("p512-d20-d50-mix", 2), ("lmsys", 1), ("lmsys", 5)):
        law = STUDIES[name]
        workload = _law(name)
        policy = capped_policy(law, workload, 90, segments)
        edges = (*policy.cuts, float(workload.output_tokens.max()))
        stages = np.diff((0.0, *edges))
        stages[0] += np.ceil(workload.prompt_tokens / 256).mean() - 1
        assert len(policy.thresholds) == segments
        assert stages @ np.array(policy.thresholds) == pytest.approx(90.0)
    mix = capped_policy(STUDIES["p512-d20-d50-mix"], _law("p512-d20-d50-mix"), 30, 2)
    assert mix.cuts == (20.0,)
    assert mix.thresholds[1] / mix.thresholds[0] == pytest.approx(0.3, abs=0.02)


def _law(name: str) -> Workload:
    return generate(STUDIES[name].preset, n=4_000, seed=7)


def test_a_cap_and_a_chunk_are_kept() -> None:
    one = paper_run(PaperRun("p512-d20", CAP_ALONE, 5.0, 300, 0, cap=1))
    many = paper_run(PaperRun("p512-d20", CAP_ALONE, 5.0, 300, 0, cap=100))
    assert one["mean_e2e_s"] > 5 * many["mean_e2e_s"]  # one request at a time serves 4 in a second
    narrow = paper_run(PaperRun("p512-d20", "vLLM V1", None, 300, 0, chunk=512))
    wide = paper_run(PaperRun("p512-d20", "vLLM V1", None, 300, 0, chunk=2048))
    assert narrow["service_rate"] == pytest.approx(24.9, rel=0.02)  # 1/(w + c0·531/512) on this machine
    assert wide["service_rate"] == pytest.approx(31.6, rel=0.02)


@pytest.fixture(scope="module")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperResult]:
    """Every part, on one short study; run twice into one file."""
    results = tmp_path_factory.mktemp("paper") / "paper.jsonl"
    patch = pytest.MonkeyPatch()
    for name, of in list(STUDIES.items()):
        if of.machine == FITTED or (of.preset == "p512-d20-d50-mix" and of.machine != FOUR_TERM):
            patch.delitem(STUDIES, name)
            continue
        patch.setitem(STUDIES, name, replace(of, rates=_some(of.rates), caps=(20, 60), segments=of.segments[-2:]))
    patch.setattr(study, "CYCLE_REQUESTS", 600)
    patch.setattr(study, "PUBLISHED", {50.0: 34_377.0})
    patch.setattr(scaling, "LEAST_REQUESTS", 300)
    for name, of_horizons in list(scaling.CASES.items()):
        patch.setitem(scaling.CASES, name, replace(of_horizons, repeats=1))
        patch.setitem(scaling.LONGER, name, (0.5, 1.0))
    first = run_paper(PARTS, SMALL, runner=Runner(results=results))
    lines = results.read_text().splitlines()
    again = run_paper(PARTS, SMALL, runner=Runner(results=results))
    assert results.read_text().splitlines() == lines  # nothing is run twice
    for row, other in zip(first.rows, again.rows, strict=True):
        assert row.cell == other.cell
        assert all(np.array_equal(row.values[key], other.values[key], equal_nan=True) for key in row.values)
    yield again
    patch.undo()


def _some(rates: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(rate for rate in rates if rate in (12.0, 22.0, 23.0, 4.0, 4.5, 10.0))


def test_the_page_shows_every_part_and_judges_every_claim(small_result: PaperResult) -> None:
    page = paper_page(small_result)
    for title in (
        "## Claims",
        "## Formulas",
        "## The theorems over growing horizons",
        "## Largest stable rate, req/s",
        "## Latency and completion rate",
    ):
        assert title in page
    judged = claims.judged_claims(small_result)
    assert {claim.verdict for claim in judged} <= {"reproduced", "partly", "not"}
    for claim in judged:
        cells = (claim.what, claim.published, claim.measured, claim.verdict, claim.owner, claim.shown)
        assert f"| {' | '.join(cells)} |" in page
        assert (claim.owner == "none") == (claim.verdict == "reproduced") or claim.owner == "ours, mended"
    by_name = {claim.what: claim for claim in judged}
    assert by_name["Table 2: M* = C at"].verdict == "reproduced"
    assert by_name["Table 2: M* = C at"].measured == "74.1 req/s"
    # C/(d0 + d1 C)/a with 137,000 tokens cannot give 4.5 req/s, three and a half times the memory does.
    long = by_name["Figure 9, p512-d1000: WAIT's latency is controlled at 4.5 req/s"]
    assert (long.verdict, long.owner) == ("partly", "the paper's")


def test_the_page_shows_the_machines_side_by_side(small_result: PaperResult) -> None:
    page = paper_page(small_result)
    assert page.count("|  | published | four-term | Vidur steps | 479k |") == 3  # rates of two workloads, latencies
    assert "|  | published | four-term | Vidur steps | linear time | 479k |" in page
    assert "`fluidgate experiment paper --requests 300 --seeds 2`" in page


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        ({FOUR_TERM, VIDUR}, ("reproduced", "none")),
        ({FITTED}, ("reproduced", "ours, mended")),
        ({FOUR_TERM, LARGE}, ("partly", "open")),
        ({LARGE}, ("partly", "the paper's")),
        ({LINEAR}, ("partly", "the paper's")),
        (set(), ("not", "open")),
    ],
)
def test_a_difference_belongs_to_what_removes_it(good: set[str], expected: tuple[str, str]) -> None:
    holds = {name: name in good for name in (FOUR_TERM, VIDUR, FITTED, LINEAR, LARGE)}
    assert judged(holds, "open", "the paper's") == expected


def test_machines_are_what_they_say() -> None:
    assert machine(VIDUR).grid is not None
    assert machine(FITTED).grid is None
    # The line through Vidur's steps: 9.5 ms, 55 µs per token, 0.355 µs per KV token.
    assert machine(FITTED).step_time.duration_s(512, 10_000, 0, 0) == pytest.approx(9.5e-3 + 512 * 55e-6 + 3.55e-3)
    assert machine(FOUR_TERM).num_gpu_blocks == machine(VIDUR).num_gpu_blocks == machine(LINEAR).num_gpu_blocks == 8563
    assert machine(LARGE).num_gpu_blocks == 29_952


def test_vidurs_steps_go_with_vidurs_schedulers() -> None:
    of = schedulers(STUDIES["p512-d20, Vidur steps"])
    assert of[VLLM].engine == EngineConfig.preset("vidur", mode="prefill-first")
    assert of[SARATHI].engine == EngineConfig.preset("vidur", mode="sarathi", max_num_seqs=512)
    assert not schedulers(STUDIES["p512-d20"])[VLLM].engine.pad_prompt_batches
    assert {scheduler.engine.preemption for scheduler in of.values()} == {"recompute"}
    assert not set(STRICT) & set(of)  # no seats, and steps are known up to 4,096 requests at once
    assert PUBLISHED_CAP not in schedulers(STUDIES["lmsys"])


def test_wait_runs_with_the_authors_cap(small_result: PaperResult) -> None:
    # 21 stages, one request at each: at most 21 at once, so by Little's law E2E is 21 over the service rate at least.
    row = small_result.row("stable-rate", study.Cell("p512-d20", PUBLISHED_CAP))
    alone = paper_run(PaperRun("p512-d20", CAP_ALONE, None, 900, 0, cap=21))
    assert row.setting is None
    assert row.values["service_rate"][0] <= 1.001 * alone["service_rate"]
    assert row.values["service_rate"][0] == pytest.approx(alone["service_rate"], rel=0.05)


def test_large_totals_are_tried_with_one_segment(small_result: PaperResult) -> None:
    tried = small_result.searched[study.Cell("lmsys", SEARCHED, 10.0)]
    assert {cap for cap, segments in tried if segments == 1} == {220, 240, 260, 280, 300}
    assert {cap for cap, segments in tried if segments > 1} == {20, 60}


def texts_of(path: Path) -> list[str | None]:
    """What is written in a drawing."""
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_figures_show_every_scheduler(small_result: PaperResult, tmp_path: Path) -> None:
    written = write_paper_figures(small_result, tmp_path / "new")
    claimed = written.pop().read_text()
    assert claimed.isascii(), "pdflatex needs packages for more"
    rows = [line for line in claimed.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + len(claims.judged_claims(small_result))
    assert all(len(re.findall(r"(?<!\\)&", row)) == 4 for row in rows)
    assert r"M* of LMSYS at 50 / 60 / 70 / 80 req/s" in claimed
    assert all(path.read_bytes().startswith(b"%PDF") for path in written if path.suffix == ".pdf")
    drawn = {path.stem: path for path in written if path.suffix == ".svg"}
    assert len(written) == 2 * len(drawn)
    assert list(drawn)[:3] == [f"paper-scaling-{measure}" for measure in ("gap", "wait", "memory")]
    assert {"paper-p512-d20", "paper-p512-d20-d50-mix", "paper-p512-d20-by-machine"} <= set(drawn)
    for name, path in list(drawn.items())[3:]:
        texts = texts_of(path)
        wait = "Nested WAIT, best B" if "lmsys" in name else "WAIT, best B"
        assert {"vLLM V0", "Sarathi", wait, "vLLM V1", "fluid (fluidgate)"} <= set(texts)
        assert {"arrival rate (requests/s)", "mean end-to-end latency (s)"} <= set(texts)
    for name, width_in in (("paper-p512-d20", 3.3), ("paper-p512-d20-by-machine", 6.9)):
        width = ElementTree.parse(drawn[name]).getroot().get("width")
        assert width is not None
        assert float(width.removesuffix("pt")) / 72 == pytest.approx(width_in)
    assert {"four-term", "Vidur steps", "479k"} <= set(texts_of(drawn["paper-p512-d20-by-machine"]))
    again = write_paper_figures(small_result, tmp_path / "again")
    assert [path.read_bytes() for path in again[:-1]] == [path.read_bytes() for path in written]
    with pytest.raises(InputError, match="add --part latency"):
        write_paper_figures(replace(small_result, rows=(), scaling={}), tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_paper_figures(small_result, written[0])


def test_the_search_takes_the_best_setting(small_result: PaperResult) -> None:
    for cell, found in small_result.searched.items():
        part = "equal-chunks" if cell.chunk else "stable-rate" if cell.rate is None else "latency"
        chosen = found[small_result.row(part, cell).setting]
        assert chosen == (max(found.values()) if cell.rate is None else min(found.values()))
    assert {cell.scheduler for cell in small_result.searched} == {SEARCHED, CAP_ALONE}


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown part 'theories'; did you mean theory\? Known: theory, scaling"):
        run_paper(["theories"], SMALL)
    with pytest.raises(InputError, match=r"unknown study 'p512'.* Known: p512-d20, "):
        paper_run(PaperRun("p512", "vLLM", 1.0, 300, 0))
    with pytest.raises(InputError, match="at least 300 requests and 2 seeds"):
        Scale(seeds=1)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"format": "something else"}\n')
    with pytest.raises(InputError, match=r"other\.jsonl"):
        run_paper(["theory"], SMALL, runner=Runner(results=other))
