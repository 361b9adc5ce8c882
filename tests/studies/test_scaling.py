"""The theorems over growing horizons: cases by hand, the engine against walks and clocks, and what refutes a claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, segments
from fluidgate.studies.paper import scaling
from fluidgate.studies.paper.scaling import Scaling, ScalingRun, draw_case, memory_of, run_case, scaling_run
from fluidgate.studies.paper.scaling_cases import CASES, NESTED_CASES, PROMPT, VARYING_CASES, Case
from fluidgate.studies.paper.scaling_claims import overflows, random_walk_wait, scaling_claims
from fluidgate.studies.paper.scaling_figures import write_scaling_figures
from fluidgate.studies.paper.settings import LINEAR, machine
from fluidgate.studies.paper.slopes import frequency_limits, growth, log_slope
from fluidgate.workload import Workload

HORIZONS = (1_000, 4_000, 16_000)


def test_thresholds_ask_for_the_memory_that_adds_up_by_hand() -> None:
    assert CASES["wait-one-critical"].base_tokens == 2 * sum(PROMPT + s for s in range(20))
    assert CASES["wait-two-slack"].base_tokens == 20_860 + sum(PROMPT + s for s in range(50))
    two = CASES["nested-two"]
    assert two.base_tokens == 5 * sum(PROMPT + s for s in range(20)) + 3 * sum(PROMPT + s for s in range(20, 50))
    # One boundary: θ solves e^(-3θ)(1 - 0.5 + 0.5 e^θ)^5 = 1, and a request holds l + 19 tokens there.
    (theta,) = two.decay()
    assert np.exp(-3 * theta) * (0.5 + 0.5 * np.exp(theta)) ** 5 == pytest.approx(1.0)
    iterations = 1 + two.horizon_s(5_000) / machine(LINEAR).step_time.c0
    queue = 3 + np.log(2 * iterations / 0.1) / theta
    assert two.required_tokens(5_000, 0.1) == pytest.approx(two.base_tokens + 531 * queue)


@pytest.mark.parametrize("name", NESTED_CASES)
def test_the_memory_is_the_plans(name: str) -> None:
    of = CASES[name]
    (stream,) = of.streams
    counts = np.round(np.array(stream.shares) * 1_000).astype(int)
    workload = Workload(np.arange(1_000.0), np.full(1_000, PROMPT), np.repeat(stream.outputs, counts))
    assert of.cuts is not None
    cuts = np.array((*of.cuts, of.outputs[-1]))
    law = machine(LINEAR).with_cache(10, block_size=1).law
    cut = segments(RequestMix.from_workload(workload, 1.0), cuts, law, "max")
    assert of.base_tokens == pytest.approx(float(np.array(of.thresholds) @ (cut.stages * cut.memory_tokens)))
    assert of.boundary_tokens() == pytest.approx(cut.boundary_tokens[1:])
    assert of.survival == pytest.approx(cut.survival[1:])


@pytest.mark.parametrize("name", ["wait-one-critical", "nested-three"])
def test_a_faster_clock_is_a_longer_horizon(name: str) -> None:
    # Arrivals and iterations 4 times as fast: every time is a quarter, to the bit.
    of = CASES[name]
    workload = draw_case(of, 300, 1)
    plain = run_case(of, workload, memory_of(of))
    hardware = machine(LINEAR).with_cache(memory_of(of) + 1, block_size=1)
    step = hardware.step_time
    faster = replace(hardware, step_time=replace(step, c0=step.c0 / 4, c_kv=step.c_kv / 4))
    records = run(replace(workload, arrival_s=workload.arrival_s / 4), faster, of.make_policy(), plain.config)
    assert np.array_equal(records.last_token_s, plain.last_token_s / 4, equal_nan=True)


def test_wait_needs_its_memory_and_no_more() -> None:
    of = CASES["wait-two-critical"]
    workload = draw_case(of, 1_000, 0)
    enough, short = (run_case(of, workload, tokens) for tokens in (of.base_tokens, of.base_tokens - 1))
    assert enough.peak_blocks == of.base_tokens
    assert enough.preemptions.sum() == 0
    assert not np.array_equal(short.last_token_s, enough.last_token_s, equal_nan=True)


def test_what_ample_memory_holds_says_when_less_overflows() -> None:
    of = CASES["nested-two"]
    workload = draw_case(of, 1_000, 3)
    ample = run_case(of, workload, memory_of(of))
    same, less = (run_case(of, workload, tokens) for tokens in (ample.peak_blocks, ample.peak_blocks - 1))
    assert of.base_tokens < ample.peak_blocks < memory_of(of)
    assert np.array_equal(same.last_token_s, ample.last_token_s, equal_nan=True)
    assert not np.array_equal(less.last_token_s, ample.last_token_s, equal_nan=True)


def test_the_random_walk_is_a_queue_at_its_capacity() -> None:
    # Each interval n requests are served and Poisson(n) come; the mean wait is the mean queue over n.
    n, intervals = 2, 4_000
    steps = np.random.default_rng(0).poisson(n, (2_000, intervals)) - n
    walk = np.cumsum(steps, axis=1)
    queue = walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0)
    assert random_walk_wait("wait-one-critical", n * intervals) == pytest.approx(queue.mean() / n, rel=0.05)


def test_arrivals_keep_their_rates() -> None:
    for name, of in CASES.items():
        counts = [(draw_case(of, 2_000, seed).arrival_s <= of.horizon_s(2_000)).sum() for seed in range(20)]
        assert np.mean(counts) == pytest.approx(2_000, rel=0.15), name
    mix = CASES["mix-within"]
    outputs = np.concatenate([draw_case(mix, 2_000, seed).output_tokens for seed in range(20)])
    assert (outputs == 50).mean() == pytest.approx(0.2 / 0.65, rel=0.15)
    for of in VARYING_CASES.values():  # the conditions of the theorem, for rates between two values
        highest = sum(getattr(stream.rate, "high", 0.0) for stream in of.streams)
        assert (highest < 1.0 and of.survival[0] < 3 / 5) or not of.within


def test_gap_and_waits_on_a_run_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # One request at a time, one iteration per token: 2 tokens, arrivals at 0 and 0.5 iterations and long after.
    of = Case("by hand", CASES["wait-one-slack"].streams, (1,))
    step = machine(LINEAR).step_time
    first, second = (step.c0 + step.c_kv * (PROMPT + s) for s in (0, 1))
    arrivals = np.array([0.0, 0.5 * first, 50.0])
    workload = Workload(arrivals, np.full(3, PROMPT), np.full(3, 2))
    monkeypatch.setattr(scaling, "draw_case", lambda *_: workload)
    monkeypatch.setattr(
        scaling,
        "run_case",
        lambda *_: run(
            workload,
            machine(LINEAR),
            CASES["boundary-greedy"].make_policy(),
            EngineConfig(max_num_active_seqs=1, async_scheduling=False),
        ),
    )
    found = scaling._one(of, 100, 0)
    assert of.horizon_s(100) < 50.0
    total = first + second
    assert found["latency"] * of.iteration_s == pytest.approx((total + 2 * total - 0.5 * first) / 2)
    assert found["wait"] * of.iteration_s == pytest.approx((total - 0.5 * first) / 2)
    assert (found["gap"], found["queue"], found["unfinished"]) == (0.0, 0.0, 0.0)


def test_slopes_and_frequencies_have_honest_intervals() -> None:
    rng = np.random.default_rng(0)
    noisy = {x: 3.0 * x**-0.5 * rng.gamma(4.0, 0.25, 200) for x in HORIZONS}
    slope = log_slope(noisy)
    assert slope.low < -0.5 < slope.high
    assert slope.high - slope.low < 0.1
    assert log_slope({x: np.full(5, 2.0 * x) for x in HORIZONS}).mean == pytest.approx(1.0)
    assert growth({x: np.full(5, 7.0 * np.log(x)) for x in HORIZONS}) == pytest.approx(7.0)
    # None of n seen: 1 - 0.05^(1/n).
    assert frequency_limits(0, 299) == (0.0, pytest.approx(1 - 0.05 ** (1 / 299)))
    assert frequency_limits(5, 5) == (pytest.approx(0.05**0.2), 1.0)
    low, high = frequency_limits(10, 100)
    assert low < 0.1 < high


def made_up(**changes: float) -> Scaling:
    """Every theorem as it is printed, but for the exponents that are given."""
    rng = np.random.default_rng(1)
    made: Scaling = {}
    for name, of in CASES.items():
        critical = of.load == 1.0
        exponents = {"gap": -0.5 if critical else -1.0, "latency": 0.5 if critical else 0.0} | changes
        exponents |= {"queue": exponents["gap"], "wait": exponents["latency"]}
        peak = of.base_tokens if of.cuts is None else of.base_tokens + 100
        made[name] = {
            x: {key: x**power * rng.gamma(100.0, 0.01, 400) for key, power in exponents.items()}
            | {"peak_tokens": np.full(400, float(peak)), "restarts": np.zeros(400), "unfinished": np.zeros(400)}
            for x in HORIZONS
        }
    return made


def verdicts(of: Scaling) -> dict[str, str]:
    return {claim.what: claim.verdict for claim in scaling_claims(of)}


def test_theorems_as_printed_are_reproduced() -> None:
    claims = scaling_claims(made_up())
    assert {claim.verdict for claim in claims} == {"reproduced"}
    assert {claim.owner for claim in claims} == {"none"}
    named = " ".join(claim.what for claim in claims)
    assert all(theorem in named for theorem in ("Theorem 1", "Theorems 2 and 4", "Theorem 3", "Proposition 4"))


def test_a_gap_that_stays_refutes() -> None:
    found = verdicts(made_up(gap=0.0))
    assert {verdict for what, verdict in found.items() if "gap" in what} == {"not"}
    assert {verdict for what, verdict in found.items() if "latency" in what} == {"reproduced"}


def test_a_delay_that_grows_or_does_not_refutes() -> None:
    linear = verdicts(made_up(latency=1.0))
    assert {verdict for what, verdict in linear.items() if "latency" in what or "wait for" in what} == {"not"}
    (boundary,) = (verdict for what, verdict in verdicts(made_up(latency=0.2)).items() if "Proposition 4" in what)
    assert boundary == "not"


def test_too_many_overflows_refute() -> None:
    made = made_up()
    peaks = made["nested-two"][HORIZONS[-1]]["peak_tokens"]
    peaks[:20] = 1e6  # 5% of the runs, of which δ = 0.01 allows 1%
    found = verdicts(made)
    assert found["Theorems 2 and 4: more than M_req is held in at most a share δ of the runs"] == "not"
    last = list(overflows(made, "nested-two"))[-1]
    assert (last.hits, last.seeds, last.is_resolved) == (20, 400, True)
    assert last.limits[0] > 0.01


def test_an_eviction_or_a_request_left_over_refutes_wait() -> None:
    made = made_up()
    made["wait-one-slack"][HORIZONS[0]]["restarts"][0] = 1.0
    made["wait-two-slack"][HORIZONS[0]]["unfinished"][0] = 1.0
    found = verdicts(made)
    assert found["Theorem 1: with C = M^π tokens WAIT evicts nothing (most KV held ÷ M^π; restarts)"] == "not"
    assert found["Theorem 1, with slack: mean latency against ζT, log-log slope"] == "not"


def test_figures_have_laws_words_and_units(tmp_path: Path) -> None:
    drawn = {path.name: path for path in write_scaling_figures(made_up(), tmp_path)}
    assert set(drawn) == {
        f"paper-scaling-{name}.{kind}" for name in ("gap", "wait", "memory") for kind in ("svg", "pdf")
    }
    texts = {element.text for element in ElementTree.parse(drawn["paper-scaling-gap.svg"]).iter()}
    assert {"WAIT, load 0.9", "WAIT, load 1", "rate-limited, load 1", "fluid, load 1", "vLLM V1, load 1"} <= texts
    assert {"slope −1", "slope −½", "horizon ζT (expected requests)", "gap to the fluid throughput (%)"} <= texts
    assert {f"{horizon:,}" for horizon in HORIZONS} <= texts


def test_jobs_are_the_same_seed_by_seed() -> None:
    whole = scaling_run(ScalingRun("wait-one-slack", 200, 0, 4))
    part = scaling_run(ScalingRun("wait-one-slack", 200, 2, 2))
    assert part == {key: values[2:] for key, values in whole.items()}
    with pytest.raises(InputError, match=r"unknown case 'wait'\. Known: wait-one-slack"):
        scaling_run(ScalingRun("wait", 200, 0))
