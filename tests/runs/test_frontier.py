"""The frontier: closed forms, the same bits however it is run, and bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, stability
from fluidgate.fluid.stability import bound_seconds
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import parse_objectives
from fluidgate.policies import Greedy
from fluidgate.runs import Frontier, Runner, StableRate, frontier
from fluidgate.runs.frontier import with_backlog, work_left
from fluidgate.runs.frontier.sequential import Rule
from fluidgate.studies.plan_quality.page import quality_page
from fluidgate.studies.plan_quality.study import PAIRS, QUALITY_POLICIES, Pair, plan_quality
from fluidgate.workload import (
    AllAtOnce,
    Conversation,
    Fixed,
    Independent,
    LognormalMixture,
    Patience,
    Poisson,
    Synthetic,
    Workload,
    generate,
    parse_timeout,
)

ONE_SEAT = EngineConfig(max_num_seqs=1)
SERVER = Hardware("a server", StepTime(c0=0.01), 200)
EQUAL = Synthetic("equal requests", Poisson(1.0), Independent(Fixed(16), Fixed(10)))
VARIED = Synthetic(
    "varied requests", Poisson(1.0), Independent(Fixed(16), LognormalMixture((1.0,), (3.0,), (0.5,), 200))
)
QUICK: dict[str, Any] = {"requests": 200, "tolerance": 0.05}


def quick(**settings: Any) -> Frontier:
    return frontier(EQUAL, SERVER, ["greedy", "watermark"], config=ONE_SEAT, **{**QUICK, **settings})


def test_one_server_with_constant_service_is_stable_up_to_one_over_its_service_time() -> None:
    found = frontier(EQUAL, SERVER, ["greedy"], config=ONE_SEAT, requests=400).rates[0]
    service_s = 10 * 0.01  # ten iterations of 10 ms, one request at a time: M/D/1
    assert found.rate == pytest.approx(1 / service_s, rel=0.01)
    assert found.low <= 1 / service_s <= found.high
    assert found.high <= found.low * 1.0101
    assert found.boundary_rate == pytest.approx(1 / service_s)


def test_one_server_with_random_service_is_stable_up_to_one_over_its_mean() -> None:
    found = frontier(VARIED, SERVER, ["greedy"], config=ONE_SEAT, requests=400, tolerance=0.02).rates[0]
    # M/G/1; the mean is that of all replications' draws together, on which prediction and simulation both rest
    outputs = np.concatenate([generate(VARIED, n=400, seed=k).output_tokens for k in range(16)])
    assert found.rate == pytest.approx(1 / (0.01 * outputs.mean()), rel=0.02)
    assert found.low <= 1 / (0.01 * outputs.mean()) <= found.high


def impatient(timeout: str) -> Synthetic:
    return replace(EQUAL, patience=Patience(parse_timeout("timeout", timeout)))


def test_clients_that_never_have_to_leave_change_no_rate() -> None:
    rates = [
        frontier(source, SERVER, ["greedy"], config=ONE_SEAT, **QUICK).rates[0] for source in (EQUAL, impatient("1e6"))
    ]
    assert rates[0] == rates[1]


def test_time_spent_on_clients_that_leave_lowers_the_rate() -> None:
    """Those who leave in service have taken time for nothing: with means of a service, more than a quarter of them."""
    found = frontier(impatient("exp:0.1"), SERVER, ["greedy"], config=ONE_SEAT, **QUICK).rates[0]
    assert found.high < 0.75 / 0.1


def test_a_cap_halves_what_seats_allow() -> None:
    # c0 alone takes time, so that s seats serve s requests in 10 iterations of 10 ms
    found = frontier(EQUAL, SERVER, ["greedy", "concurrency-cap:cap=2"], config=EngineConfig(max_num_seqs=4), **QUICK)
    full, capped = (rate.rate for rate in found.rates)
    assert full == pytest.approx(40.0, rel=0.05)
    assert capped == pytest.approx(20.0, rel=0.05)
    assert found.rates[1].share == pytest.approx(0.5, rel=0.05)


def test_output_length_and_memory_axes_move_the_frontier_as_they_must() -> None:
    longer = quick(axis="output-length", values=[1, 2])
    assert [rate.setting.output_scale for rate in longer.rates] == [1.0, 1.0, 2.0, 2.0]
    assert longer.rates[2].rate == pytest.approx(longer.rates[0].rate / 2, rel=0.05)
    memory = quick(axis="memory", values=[0.5, 1])
    assert [s.hardware.kv_capacity_tokens for s in memory.settings] == [1600, 3184]
    assert memory.at(memory.settings[0])[0].rate == memory.at(memory.settings[1])[0].rate  # one seat binds


def test_models_and_gpus_take_the_place_of_the_machine() -> None:
    found = quick(axis="model-gpu", values=["llama-2-7b/a100-80gb"], replications=4, tolerance=0.5)
    assert found.settings[0].hardware.name == "llama-2-7b on a100-80gb"


def test_drift_is_what_arrives_less_what_one_server_serves() -> None:
    draw = generate(EQUAL, n=400, seed=3)
    mix = RequestMix(np.ones(400), draw.prompt_tokens, draw.output_tokens)
    request_s = bound_seconds(mix, SERVER.step_time, Limits.of(SERVER, 2048, 1))
    assert request_s == pytest.approx(0.1)  # ten iterations on the only seat
    for load in (0.5, 0.9, 1.3):
        records = run(with_backlog(draw, load / 0.1), SERVER, Greedy(), ONE_SEAT)
        found = work_left(records, request_s, load, residents=1.0)
        assert found.left_s / found.offered_s == pytest.approx((load - 1) / load, abs=1e-9)


def test_bound_seconds_average_to_one_over_the_boundary() -> None:
    mix = RequestMix([3.0, 1.0], [500, 20], [100, 2000])
    step_time = StepTime(0.01, 5e-5, 3e-7, 1e-9, 1e-5)
    for limits in (Limits(20_000, 16, 2048, 256), Limits(10**7, 16, 64, 256), Limits(10**7, 16, 2048, 4)):
        bound_s = mix.mean(bound_seconds(mix, step_time, limits))
        assert 1 / bound_s == pytest.approx(stability(mix, step_time, limits).boundary_rate)


def test_a_backlog_comes_first_and_the_rest_at_the_rate() -> None:
    loaded = with_backlog(generate(EQUAL, n=400, seed=0), 7.0)
    assert (loaded.arrival_s[:100] == 0).all()
    assert 300 / loaded.arrival_s[-1] == pytest.approx(7.0)


def test_what_is_not_stable_at_any_rate_leaves_the_interval_open_below() -> None:
    slow = frontier(EQUAL, SERVER, ["concurrency-cap:cap=1"], config=EngineConfig(max_num_seqs=16), **QUICK).rates[0]
    assert slow.low == 0.0
    assert math.isnan(slow.rate)
    assert slow.high < slow.boundary_rate


def test_same_seed_same_bits_in_one_process_or_two_and_after_a_stop(tmp_path: Path) -> None:
    results = tmp_path / "frontier.jsonl"
    alone = quick(seed=5)
    spread = quick(seed=5, runner=Runner(2, results=results))
    assert json.dumps(alone.to_dict()) == json.dumps(spread.to_dict())
    lines = results.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    results.write_text("".join(lines[:2]))
    done: list[tuple[int, int]] = []
    resumed = quick(seed=5, runner=Runner(results=results, progress=lambda *counts: done.append(counts)))
    assert json.dumps(resumed.to_dict()) == json.dumps(alone.to_dict())
    assert done == [(1, 2), (2, 2)]  # one was there
    other = quick(seed=6)
    assert other.rates[0].trials != alone.rates[0].trials
    with pytest.raises(InputError, match="results of another run"):
        quick(seed=6, runner=Runner(results=results))


def test_json_has_no_infinities() -> None:
    open_below = frontier(EQUAL, SERVER, ["concurrency-cap:cap=1"], config=EngineConfig(max_num_seqs=16), **QUICK)
    plain = json.loads(json.dumps(open_below.to_dict(), allow_nan=False))
    assert plain["rates"][0]["rate"] is None
    assert plain["rates"][0]["trials"][0]["stable"] is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policies": []}, "at least one policy"),
        ({"policies": ["greedy", "greedy"]}, "named twice"),
        ({"policies": ["gredy"]}, "did you mean greedy"),
        ({"tolerance": 0.0}, "tolerance 0.0 must be"),
        ({"alpha": 1.0}, "alpha 1.0 must be"),
        ({"requests": 0}, "0 requests per run are too few"),
        ({"axis": "size"}, "unknown axis 'size'"),
        ({"values": [1.0]}, "values need an axis"),
        ({"axis": "memory", "values": []}, "at least one value"),
        ({"axis": "memory", "values": [1, 1.0]}, "given twice"),
        ({"axis": "memory", "values": ["-1"]}, "must be a finite factor above 0"),
        ({"axis": "output-length", "values": ["nan"]}, "must be a finite factor above 0"),
        ({"axis": "model-gpu", "values": ["llama-2-7b"]}, "must be model/gpu"),
        ({"source": "azure"}, "unknown preset 'azure'"),
        ({"source": Synthetic("at once", AllAtOnce(), Independent(Fixed(16), Fixed(10)))}, "arrive at once"),
        ({"source": Workload(np.zeros(500), np.full(500, 16), np.full(500, 10))}, "arrive at once"),
        ({"source": generate(EQUAL, n=30, seed=0)}, "30 requests are too few .* at least 40"),
        ({"source": Synthetic("huge", Poisson(1.0), Independent(Fixed(9000), Fixed(10)))}, "can never fit"),
    ],
)
def test_bad_input_is_one_sentence(change: dict[str, Any], words: str) -> None:
    arguments = {"source": EQUAL, "hardware": SERVER, "policies": ["greedy"], "config": ONE_SEAT, **QUICK, **change}
    with pytest.raises(InputError, match=words) as error:
        frontier(**arguments)
    assert "\n" not in str(error.value)


def test_plan_quality_judges_the_best_policy_of_every_pair(tmp_path: Path) -> None:
    pairs = (Pair("p512-d20", "llama-2-7b", "a100-80gb", memory=0.1),)
    results = tmp_path / "quality.jsonl"
    found = plan_quality(pairs=pairs, requests=150, rule=Rule(0.5, 0.05, 4), runner=Runner(results=results))
    quality = found[0]
    assert [rate.policy for rate in quality.rates] == list(QUALITY_POLICIES)
    assert quality.best.rate == max(rate.rate for rate in quality.rates)
    assert quality.error == pytest.approx(quality.best.boundary_rate / quality.best.rate - 1)
    page = quality_page(found, "the command")
    assert "Made by `the command`" in page
    assert f"| p512-d20 | llama-2-7b on a100-80gb, 0.1 × memory | {quality.best.limit} |" in page


def test_the_study_has_pairs_that_every_limit_binds() -> None:
    assert len(PAIRS) == len(set(PAIRS)) >= 20
    assert len({pair.workload for pair in PAIRS}) >= 8
    assert len({(pair.model, pair.gpu, pair.tp) for pair in PAIRS}) >= 6


def test_requests_in_flight_limit_what_is_served_as_seats_do() -> None:
    # 2 of 8 seats can be taken: 2 requests in 10 iterations of 10 ms; the others of the queue stand at the client
    closed = replace(EQUAL, concurrency=2)
    found = frontier(closed, SERVER, ["greedy"], config=EngineConfig(max_num_seqs=8), **QUICK).rates[0]
    assert found.boundary_rate == pytest.approx(20.0)
    assert found.rate == pytest.approx(20.0, rel=0.05)


def test_sessions_cannot_stand_in_a_queue() -> None:
    sessions = replace(EQUAL, conversation=Conversation(3))
    with pytest.raises(InputError, match="turns wait for replies, so that they cannot stand in a queue"):
        frontier(sessions, SERVER, ["greedy"], config=ONE_SEAT, **QUICK)


def md1_waits_less(rate: float, service_s: float, wait_s: float) -> float:
    """P(W ≤ wait) of an M/D/1 queue: Erlang's formula."""
    terms = range(math.floor(wait_s / service_s) + 1)
    late = [rate * (wait_s - j * service_s) for j in terms]
    return (1 - rate * service_s) * sum(
        (-x) ** j / math.factorial(j) * math.exp(x) for j, x in zip(terms, late, strict=True)
    )


@pytest.mark.parametrize(("objective", "rate"), [("p90:e2el:300", None), ("mean:e2el:200", 2 / 3 / 0.1)])
def test_objectives_hold_up_to_the_rate_of_the_closed_form(objective: str, rate: float | None) -> None:
    # M/D/1 with a service of 0.1 s: the mean wait is ρ/(2(1 − ρ)) services; in 0.3 s end those that wait at most 0.2 s
    if rate is None:
        rate = brentq(lambda r: md1_waits_less(r, 0.1, 0.2) - 0.9, 0.1, 9.9)
    found = frontier(
        EQUAL,
        SERVER,
        ["greedy"],
        config=ONE_SEAT,
        requests=4000,
        tolerance=0.03,
        replications=32,
        objectives=parse_objectives([objective], None),
    ).rates[0]
    assert found.low <= rate <= found.high
    assert found.rate == pytest.approx(rate, rel=0.05)
    assert found.high < found.boundary_rate
    assert found.breaks == objective


def held(*items: str) -> StableRate:
    objectives = parse_objectives(items, None)
    return frontier(EQUAL, SERVER, ["greedy"], config=ONE_SEAT, **QUICK, objectives=objectives).rates[0]


def test_all_objectives_must_hold_and_the_first_to_break_is_named() -> None:
    tight, loose, both = held("mean:e2el:130"), held("mean:e2el:400"), held("mean:e2el:400", "p50:e2el:130")
    assert tight.high < loose.low
    assert both.high < loose.low
    assert both.breaks == "p50:e2el:130"


def test_a_mean_over_clients_that_leave_is_never_met() -> None:
    objectives = parse_objectives(["mean:e2el:1e7"], None)
    given = {**QUICK, "objectives": objectives}
    found = frontier(impatient("0.15"), SERVER, ["greedy"], config=ONE_SEAT, **given)
    assert found.rates[0].breaks == "mean:e2el:1e+07"
    assert found.rates[0].high < 0.5 * found.rates[0].boundary_rate


def test_the_boundary_limits_what_always_holds_and_nothing_is_found_for_what_never_does() -> None:
    loose, impossible = held("p50:e2el:1e7"), held("p99:e2el:1")
    assert (loose.high, loose.breaks) == (pytest.approx(loose.boundary_rate), "")
    assert loose.low > 0.9 * loose.boundary_rate
    assert (impossible.low, impossible.breaks) == (0.0, "p99:e2el:1")
    assert impossible.high < impossible.boundary_rate / 20
