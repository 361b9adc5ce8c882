"""Every finding: the least page that brings it up, one that does not, and its numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fluidgate.doctor import Diagnosis, Finding, Severity, diagnose, facts_of, facts_of_log
from fluidgate.doctor.changes import GATE
from fluidgate.hardware import Hardware, StepGrid, StepTime
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.serving.flags import SCHEDULER_CLASS
from fluidgate.vllm_metrics import Scrape

from .pages import BLOCK_SIZE, BLOCKS, log_line, page

MACHINE = Hardware("machine", StepTime(c0=0.01, c_tok=1e-5), num_gpu_blocks=50, block_size=16)

# Requests of 100 prompt and 50 output tokens: 50·(100 + 24.5) KV token-iterations, and half a block of rounding each.
MEMORY = 50 * (100 + 24.5) + 50 * 7.5
RESIDENTS = 16_000 * 50 / MEMORY
WORK_S = 1e-5 * (100 + 49)
ENTER = 16_000 / MEMORY
BOUNDARY = ENTER / (0.01 + WORK_S * ENTER)

FULL: dict[str, Any] = {"kv_use": 0.97, "waiting": 20}
ROOM: dict[str, Any] = {"kv_use": 0.40, "waiting": 20}


def diagnosis(hardware: Hardware | None = None, settings: dict[str, int] | None = None, **changes: Any) -> Diagnosis:
    facts = facts_of(Scrape.of(page(**changes), "page"))
    return diagnose(replace(facts, **(settings or {})), hardware)


def over(window_s: float, arrivals: int, hardware: Hardware | None = MACHINE, **changes: Any) -> Diagnosis:
    """Two pages, between which `arrivals` requests came and finished."""
    many = 100 + arrivals
    gaps_s = (0.02,) * (4900 + 9 * arrivals)
    later = page(finished=many, prompts=(100,) * many, outputs=(50,) * many, gaps_s=gaps_s, **changes)
    facts = facts_of(Scrape.of(later, "later"), Scrape.of(page(**changes), "earlier"), window_s)
    return diagnose(facts, hardware)


def named(found: Diagnosis, name: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.name == name]
    return finding


def names(found: Diagnosis) -> set[str]:
    return {finding.name for finding in found.findings}


def asked(finding: Finding) -> list[str]:
    return [change.what for change in finding.changes]


def test_a_server_at_ease_has_nothing_to_change() -> None:
    found = diagnosis()
    assert named(found, "nothing-wrong").severity is Severity.FINE
    assert found.changes == ()
    assert {finding.severity for finding in found.findings} == {Severity.FINE, Severity.UNKNOWN}


def test_an_idle_server_tells_nothing() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("prompts", "outputs", "steps", "first_s", "gaps_s"), ())
    nothing |= {"queue_s": (), "prefill_s": (), "finished": 0}
    found = diagnosis(running=0, kv_use=0.0, **nothing)
    assert names(found) == {"idle"}
    assert found.findings[0].severity is Severity.UNKNOWN
    started = diagnosis(running=3, **nothing)
    assert "no lengths of finished requests" in named(started, "load").says


def test_kv_binds_where_the_cache_is_full_and_requests_wait() -> None:
    finding = named(diagnosis(**FULL), "kv-binds")
    assert finding.severity is Severity.ACT
    assert finding.numbers["share_of_moments"] == 1.0
    assert "97% full while 20 requests waited" in finding.says
    assert asked(finding)[:2] == ["`--gpu-memory-utilization 0.95`", "more GPUs or replicas"]
    fp8 = finding.changes[2]
    assert (fp8.what, fp8.changes_answers) == ("`--kv-cache-dtype fp8`", True)


@pytest.mark.parametrize(
    "changes", [ROOM, {"kv_use": 0.97, "waiting": 0}, {"kv_use": 0.97, "waiting": 3, "running": 100}]
)
def test_kv_does_not_bind_with_room_or_without_a_queue(changes: dict[str, Any]) -> None:
    assert "kv-binds" not in names(diagnosis(**changes))


def test_kv_binds_where_the_next_prompt_does_not_fit() -> None:
    """4,000 of 16,000 tokens are free, and a prompt takes 5,000."""
    long = {"prompts": (5000,) * 100, "kv_use": 0.75, "waiting": 5}
    assert "kv-binds" in names(diagnosis(**long))
    assert "kv-binds" not in names(diagnosis(**(long | {"prompts": (2000,) * 100})))


def test_only_settings_that_can_still_change_are_advised() -> None:
    tuned = {"cache_dtype": "fp8", "gpu_memory_utilization": "0.97"}
    assert asked(named(diagnosis(config=tuned, **FULL), "kv-binds")) == ["more GPUs or replicas"]


def test_with_hardware_the_gain_of_more_memory_is_told() -> None:
    """Twice the memory doubles what enters: the boundary goes to 2x/(c0 + 2wx)."""
    found = diagnosis(MACHINE, **FULL)
    doubled = 2 * ENTER / (0.01 + 2 * WORK_S * ENTER)
    numbers = named(found, "kv-binds").numbers
    assert numbers["memory_doubled_gain"] == pytest.approx(doubled / BOUNDARY - 1.0)
    assert named(found, "kv-binds").benefit == pytest.approx(1.0 - BOUNDARY / doubled)


def tabulated(power: float, most: int = 512) -> Hardware:
    """`MACHINE` with tables: a step of n decodes takes 10 ms at 32, and grows with a power of n."""
    n, c = np.meshgrid(knots_to(most), knots_to(8192), indexing="ij")
    p, q = np.meshgrid(knots_to(2048), knots_to(8192), indexing="ij")
    tokens = knots_to(4096, TOKEN_KNOTS_PER_OCTAVE)
    tables = StepGrid(0.01 * (n / 32) ** power + 0 * c, 0 * n * c, 0.01 * (tokens / 32) ** power, 0 * p * q)
    return replace(MACHINE, grid=tables)


def test_on_a_grid_the_gain_of_more_memory_is_that_of_larger_batches() -> None:
    """Steps that grow with n**0.5 gain about the other half of what enters; beyond the tables nothing is told."""
    found = named(diagnosis(tabulated(0.5), **FULL), "kv-binds").numbers["memory_doubled_gain"]
    assert found == pytest.approx(2**0.5 - 1.0, rel=0.1)
    beyond = named(diagnosis(tabulated(0.5, most=192), **FULL), "kv-binds").numbers
    assert "memory_doubled_gain" not in beyond or beyond["memory_doubled_gain"] is None


def test_a_grid_is_asked_for_the_steps_that_run_not_for_those_at_the_boundary() -> None:
    told = named(diagnosis(tabulated(0.5), running=2, kv_use=0.02), "load")
    assert told.numbers["modelled_step_ms"] == pytest.approx(10 * (2 / 32) ** 0.5)


@pytest.mark.parametrize("machine", [MACHINE, tabulated(0.5)], ids=["terms", "grid"])
def test_every_request_that_runs_costs_its_part_of_a_step(machine: Hardware) -> None:
    step_time, grid = replace(machine.step_time, c_seq=1e-3), machine.grid
    priced = replace(machine, step_time=step_time, grid=grid and replace(grid, sequence_s=1e-3))
    plain, more = (named(diagnosis(m, running=7, kv_use=0.1), "load").numbers for m in (machine, priced))
    assert more["modelled_step_ms"] == pytest.approx(plain["modelled_step_ms"] + 7)


def test_no_preemptions_are_a_good_sign() -> None:
    assert named(diagnosis(), "preemptions").severity is Severity.FINE


def test_preemptions_cost_the_victims_prompts() -> None:
    """300 preemptions of 100 requests; 100 · 150 tokens were computed besides."""
    finding = named(diagnosis(preemptions=300, **FULL), "preemptions")
    assert finding.severity is Severity.ACT
    assert finding.numbers["per_request"] == 3.0
    assert finding.numbers["recomputed_tokens"] == 300 * 100
    assert finding.numbers["recomputed_share"] == pytest.approx(30_000 / 45_000)
    most = 300 * MEMORY / 50
    assert finding.numbers["recomputed_share_most"] == pytest.approx(most / (most + 15_000))
    assert finding.benefit == finding.numbers["recomputed_share"]
    assert asked(finding)[0] == GATE.what == f"`--scheduler-cls {SCHEDULER_CLASS}`"
    assert f"`--max-num-active-seqs {int(RESIDENTS)}`" in asked(finding)


def test_a_rare_preemption_is_watched_only() -> None:
    assert named(diagnosis(preemptions=1), "preemptions").severity is Severity.WATCH


def test_preemptions_silence_streams() -> None:
    """The longest 40 of 5,040 gaps last 0.75 to 1 s: as many as there are preemptions."""
    finding = named(diagnosis(preemptions=40, gaps_s=(0.02,) * 5000 + (0.9,) * 40), "preemptions")
    assert finding.numbers["silence_median_low_s"] == 0.75
    assert "last 0.75 to 1 s in the middle" in finding.says


def test_preemptions_with_hardware_cost_rate() -> None:
    """One eviction per request: w_rec·λ/(1 + w_rec·λ), the recomputation of a resident of mean age."""
    finding = named(diagnosis(MACHINE, preemptions=100), "preemptions")
    again = 1e-5 * (100 + 24.5) * BOUNDARY
    assert finding.numbers["lost_rate_share"] == pytest.approx(again / (1 + again))


def test_with_fluidgates_scheduler_the_recomputed_share_is_measured() -> None:
    gate = {"computed_tokens_total": 5000, "recomputed_tokens_total": 500}
    finding = named(diagnosis(preemptions=30, gate=gate), "preemptions")
    assert finding.numbers["recomputed_share"] == 0.1
    assert asked(finding) == ["plan again from recent traffic"]


def test_seats_bind() -> None:
    finding = named(diagnosis(settings={"max_num_seqs": 8}, **ROOM), "seats-bind")
    assert finding.severity is Severity.ACT
    assert asked(finding) == [f"`--max-num-seqs {int(RESIDENTS)}`"]
    keep = diagnosis(settings={"max_num_seqs": 200}, running=200, **ROOM)
    assert asked(named(keep, "seats-bind")) == ["keep `--max-num-seqs 200`"], "the lengths fill the cache at 121"


def test_the_token_budget_binds() -> None:
    settings = {"max_num_seqs": 256, "max_num_batched_tokens": 512}
    finding = named(diagnosis(settings=settings, steps=(500,) * 100, **ROOM), "budget-binds")
    assert asked(finding) == ["`--max-num-batched-tokens 1024`"]


def test_a_limit_that_is_not_published_is_asked_for() -> None:
    unknown = named(diagnosis(**ROOM), "limit-unknown")
    assert unknown.severity is Severity.WATCH
    assert asked(unknown) == ["run doctor again with `--max-num-seqs N and --max-num-batched-tokens N`"]
    settings = {"max_num_seqs": 256, "max_num_batched_tokens": 512}
    neither = named(diagnosis(settings=settings, **ROOM), "limit-unknown")
    assert "neither seats nor token budget are used up" in neither.says
    assert neither.changes == ()


@pytest.mark.parametrize("changes", [FULL, {"kv_use": 0.4, "waiting": 0}, {"kv_use": 0.4, "deferred": 9}])
def test_no_other_limit_binds_without_a_queue_or_with_a_full_cache(changes: dict[str, Any]) -> None:
    assert not names(diagnosis(**changes)) & {"seats-bind", "budget-binds", "limit-unknown"}


def test_room_after_a_preemption_is_no_room() -> None:
    """Memory binds at one of two moments: at the other vLLM had just evicted."""
    facts = facts_of(Scrape.of(page(**FULL), "later"), Scrape.of(page(kv_use=0.8, waiting=20), "earlier"), 10.0)
    assert "limit-unknown" not in names(diagnose(facts))


def test_the_boundary_is_that_of_the_model() -> None:
    """Lengths on bucket edges leave nothing open; the server's 1,001 blocks count, not the machine's 50."""
    assert MACHINE.num_gpu_blocks != BLOCKS
    numbers = named(over(100.0, 5000), "load").numbers
    assert numbers["boundary_rate"] == pytest.approx(BOUNDARY)
    assert numbers["boundary_rate_low"] == pytest.approx(BOUNDARY)
    assert numbers["boundary_rate_high"] == pytest.approx(BOUNDARY)
    assert numbers["residents_at_boundary"] == pytest.approx(RESIDENTS)
    assert numbers["rate"] == 50.0
    assert numbers["load"] == pytest.approx(50.0 / BOUNDARY)


@pytest.mark.parametrize(
    ("rate", "severity"), [(0.5, Severity.FINE), (0.95, Severity.WATCH), (1.5, Severity.ACT)], ids=str
)
def test_the_load_is_judged_against_the_boundary(rate: float, severity: Severity) -> None:
    finding = named(over(10.0, round(10.0 * rate * BOUNDARY)), "load")
    assert finding.severity is severity
    assert finding.numbers["load"] == pytest.approx(rate, rel=1e-3)


def test_an_overload_needs_replicas() -> None:
    """1.5 times the boundary on two servers is 75% for each; the queue holds n* and 30 s."""
    finding = named(over(10.0, round(15.0 * BOUNDARY)), "load")
    assert finding.benefit == pytest.approx(1 / 3, rel=1e-3)
    assert asked(finding) == [
        "2 replicas of this server",
        f"`--max-num-queued-reqs {int(RESIDENTS + 30 * BOUNDARY) + 1}`",
    ]


def two_engines(taken_s: float, hardware: Hardware | None) -> Finding:
    """216 requests finished or are there since the start at 1,000 s, on two engines."""
    config = {"num_gpu_blocks": 2 * BLOCKS}  # vLLM publishes the sum of its engines' blocks
    both = page(config=config) + page(engine="1", config=config, extra=["process_start_time_seconds 1000"])
    return named(diagnose(facts_of(Scrape.of(both, "page", taken_s)), hardware), "load")


def test_several_engines_sustain_several_times_the_rate() -> None:
    assert two_engines(1100.0, MACHINE).numbers["boundary_rate"] == pytest.approx(2 * BOUNDARY)
    assert two_engines(1100.0, None).numbers["memory_rate"] == pytest.approx(2 * RESIDENTS)
    overload = two_engines(1000.5, MACHINE)
    assert overload.numbers["load"] == pytest.approx(216 / 0.5 / (2 * BOUNDARY))
    assert f"`--max-num-queued-reqs {int(RESIDENTS + 30 * BOUNDARY) + 1}`" in asked(overload), (
        "each engine has its queue"
    )


def test_the_load_lies_between_the_bounds_of_the_histograms() -> None:
    mixed = {"prompts": (60, 140) * 50, "outputs": (10, 90) * 50}
    facts = replace(facts_of(Scrape.of(page(**mixed), "page")), window_s=10.0)
    numbers = named(diagnose(facts, MACHINE), "load").numbers
    assert numbers["boundary_rate_low"] < numbers["boundary_rate"] < numbers["boundary_rate_high"]
    assert numbers["load_low"] < numbers["load"] < numbers["load_high"]


def test_without_hardware_memory_and_the_present_steps_give_a_rate() -> None:
    """Little's law: n* residents, each 50 steps of 20 ms."""
    finding = named(over(100.0, 5000, None), "load")
    assert finding.severity is Severity.UNKNOWN
    assert finding.numbers["memory_rate"] == pytest.approx(RESIDENTS / (50 * 0.02))
    assert finding.numbers["memory_load"] == pytest.approx(50.0 * 50 * 0.02 / RESIDENTS)


def test_with_speculation_a_step_gives_several_tokens() -> None:
    """4,900 tokens after the first in 1,960 gaps: 2.5 tokens per step of 20 ms."""
    drafts = ['vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 1900']
    found = diagnosis(gaps_s=(0.02,) * 1960, extra=drafts)
    assert named(found, "load").numbers["memory_rate"] == pytest.approx(2.5 * RESIDENTS / (50 * 0.02))
    assert "decodes speculatively" in found.notes[0]
    whats = [change.what for change in diagnosis(preemptions=300, extra=drafts, **FULL).changes]
    assert whats[0].startswith("`--watermark")
    assert GATE.what not in whats


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (diagnosis(MACHINE), "how long the counters ran is unknown"),
        (over(4.0, 0), "no request arrived in the time"),
        (diagnosis(config={"num_gpu_blocks": "None"}), "the size of the KV cache is unknown"),
        (diagnosis(MACHINE), "--max-num-seqs and --max-num-batched-tokens not given"),
        (diagnosis(MACHINE, prefix=(1000, 400)), "spares 40% of prompts, which raises it"),
        (diagnosis(MACHINE, gaps_s=(0.3,) * 500), "The hardware model is off: it gives 10.6 ms per step"),
    ],
)
def test_what_cannot_be_told_or_is_left_out_is_said(found: Diagnosis, sentence: str) -> None:
    assert sentence in named(found, "load").says


def test_a_hardware_model_that_fits_the_gaps_is_not_called_off() -> None:
    assert "model is off" not in named(diagnosis(MACHINE), "load").says


def test_hardware_gives_the_cache_where_the_page_does_not() -> None:
    machine = replace(MACHINE, num_gpu_blocks=BLOCKS, block_size=BLOCK_SIZE)
    found = diagnosis(machine, config={"num_gpu_blocks": "None"})
    assert named(found, "load").numbers["boundary_rate"] == pytest.approx(BOUNDARY)


@pytest.mark.parametrize(
    ("queue_s", "prefill_s", "severity", "words"),
    [
        (9.0, 1.0, Severity.WATCH, "waits in the queue, 90% of its time"),
        (0.5, 4.5, Severity.WATCH, "waits for its prefill"),
        (0.3, 0.2, Severity.FINE, "First tokens come soon"),
    ],
)
def test_what_the_first_token_waits_for(queue_s: float, prefill_s: float, severity: Severity, words: str) -> None:
    finding = named(diagnosis(queue_s=(queue_s,) * 100, prefill_s=(prefill_s,) * 100), "first-token")
    assert finding.severity is severity
    assert words in finding.says


def test_few_requests_tell_nothing_of_the_first_token() -> None:
    assert "first-token" not in names(diagnosis(queue_s=(9.0,) * 9, prefill_s=(1.0,) * 9))


SPIKES = (0.02,) * 4900 + (0.9,) * 100


def test_gaps_of_long_prefills() -> None:
    """The median is at most 25 ms, so that a spike lasts over 100 ms; there are no preemptions to blame."""
    finding = named(diagnosis(gaps_s=SPIKES), "gap-spikes")
    assert finding.severity is Severity.WATCH
    assert finding.numbers["spikes"] == 100
    assert finding.benefit == pytest.approx(100 * 4 * 0.025 / sum(SPIKES))
    assert "long prefills share the step" in finding.says
    assert asked(finding) == ["a smaller `--max-num-batched-tokens`"]
    known = diagnosis(gaps_s=SPIKES, settings={"max_num_batched_tokens": 8192})
    assert asked(named(known, "gap-spikes")) == ["`--max-num-batched-tokens 4096`"]


def test_hardware_gives_the_chunk_that_makes_no_spike() -> None:
    """10 ms and 10 µs per token: 100 ms hold 9,000 tokens, of powers of two 8,192."""
    found = diagnosis(MACHINE, gaps_s=SPIKES, settings={"max_num_batched_tokens": 65_536})
    assert asked(named(found, "gap-spikes")) == ["`--max-num-batched-tokens 8192`"]


def test_gaps_of_preemptions() -> None:
    finding = named(diagnosis(gaps_s=SPIKES, preemptions=90), "gap-spikes")
    assert "those are the cause" in finding.says
    assert asked(finding)[0] == GATE.what


def test_even_gaps_are_a_good_sign() -> None:
    assert named(diagnosis(), "gap-spikes").severity is Severity.FINE
    assert "gap-spikes" not in names(diagnosis(gaps_s=(0.02,) * 99)), "too few to tell"


@pytest.mark.parametrize(
    ("hits", "words"), [((1000, 400), "spares 40% of the prompt tokens"), ((1000, 1), "share almost nothing")]
)
def test_the_prefix_cache(hits: tuple[int, int], words: str) -> None:
    assert words in named(diagnosis(prefix=hits), "prefix-cache").says
    assert "prefix-cache" not in names(diagnosis())


def test_a_prefix_cache_that_is_off_is_watched() -> None:
    finding = named(diagnosis(config={"enable_prefix_caching": "False"}), "prefix-cache")
    assert finding.severity is Severity.WATCH
    assert asked(finding) == ["`--enable-prefix-caching`"]


def test_a_gate_that_gave_up_comes_first() -> None:
    found = diagnosis(gate={'fallbacks_total{where="decide"}': 1}, preemptions=500, **FULL)
    assert found.findings[0].name == "gate-off"


def test_a_gate_that_holds_for_nothing() -> None:
    idle = {"held_requests": 12, "predicted_peak_kv_share": 0.3}
    found = diagnosis(gate=idle, waiting=12)
    assert named(found, "gate-holds").severity is Severity.WATCH
    assert not names(found) & {"limit-unknown", "kv-binds"}, "the gate keeps them out, not the engine"


def test_a_gate_that_waits_for_memory_is_at_work() -> None:
    held = {"held_requests": 12, "predicted_peak_kv_share": 0.98}
    assert named(diagnosis(gate=held, waiting=12), "gate").severity is Severity.FINE
    assert "holds no request" in named(diagnosis(gate={}), "gate").says


def test_findings_come_by_urgency_then_benefit() -> None:
    found = diagnosis(preemptions=300, queue_s=(9.0,) * 100, gaps_s=SPIKES, **FULL)
    ranks = [(list(Severity).index(finding.severity), -finding.benefit) for finding in found.findings]
    assert ranks == sorted(ranks)
    assert all(0.0 <= finding.benefit <= 1.0 for finding in found.findings)
    whats = [change.what for change in found.changes]
    assert len(whats) == len(set(whats)), "each change once"
    assert whats[0] == GATE.what, "two thirds of the work is lost to preemptions"


def test_a_log_of_a_full_cache() -> None:
    lines = [log_line(kv_use=97.0, waiting=9)] * 3 + [log_line(kv_use=50.0)] * 3
    finding = named(diagnose(facts_of_log("\n".join(lines), "vllm.log")), "kv-binds")
    assert finding.numbers["share_of_moments"] == 0.5
    assert "at 50% of 6 moments with work" in finding.says
    assert GATE.what in asked(finding)
    seldom = [log_line(kv_use=97.0, waiting=9)] + [log_line(kv_use=50.0)] * 9
    assert "kv-binds" not in names(diagnose(facts_of_log("\n".join(seldom), "vllm.log")))
