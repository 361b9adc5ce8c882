"""The decode-only server and the mixing of output lengths: recursions of our own, published figures, closed forms."""

import numpy as np
import pytest

from fluidgate.engine import run
from fluidgate.hardware import StepTime
from fluidgate.policies import Greedy
from fluidgate.studies.paper import decode_server, mixing
from fluidgate.studies.paper.decode_server import DecodeRun, decode_run
from fluidgate.studies.paper.mixing import MixingRun, largest_root, mixing_run
from fluidgate.studies.paper.settings import FOUR_TERM, LARGE, SEARCHED, V1, VLLM, machine
from fluidgate.workload import Workload

GROUPS = mixing.MIXTURES[mixing.PUBLISHED].groups


def completions(types: mixing.Lengths, capacity: float, iterations: int) -> float:
    """Of a saturated server whose requests are real numbers: who is furthest stays, the rest of the memory enters.

    A cohort that does not fit is evicted in part, all its types alike, and starts again.
    """
    longest = max(output for _, output in types)
    aged = np.zeros((longest, len(types)))
    done = 0.0
    for _ in range(iterations):
        room = capacity
        for age in range(longest - 1, -1, -1):
            need = sum((prompt + age + 1) * aged[age, k] for k, (prompt, _) in enumerate(types))
            room = max(room, 0.0)  # rounding
            stays = 1.0 if need <= room else room / need
            aged[age] *= stays
            room -= need * stays
        aged[0] += room / sum(prompt + 1 for prompt, _ in types)
        done += sum(aged[output - 1, k] for k, (_, output) in enumerate(types))
        for k, (_, output) in enumerate(types):
            aged[output - 1, k] = 0.0
        aged = np.roll(aged, 1, axis=0)
    return done


@pytest.mark.parametrize(
    ("types", "published"),
    [(GROUPS[0], 2839.8760330577206), (GROUPS[1], 4319.661458333333), (GROUPS[0] + GROUPS[1], 3854.684467887635)],
)
def test_the_published_runs_are_this_recursion(types: mixing.Lengths, published: float) -> None:
    """multi_replica_mixing_results.json: 1,000 iterations with 500 tokens."""
    assert completions(types, 500.0, 1000) == pytest.approx(published, rel=1e-9)


def test_the_published_gain_is_stated_right() -> None:
    apart, mixed = mixing.PUBLISHED_PER_ITERATION
    assert apart == pytest.approx((2839.8760330577206 + 4319.661458333333) / 1000, abs=1e-3)
    assert mixed == pytest.approx(2 * 3854.684467887635 / 1000, abs=1e-3)


@pytest.mark.parametrize("types", [((20, 6), (20, 9)), ((20, 4), (20, 9)), ((60, 7),), ((10, 5), (10, 12))])
def test_the_root_is_how_disturbances_grow(types: mixing.Lengths) -> None:
    """The linear recursion of the admissions, as long as nothing is evicted: memory stays full."""
    longest = max(output for _, output in types)
    share = 1.0 / len(types)
    held = [share * sum(prompt + m + 1 for prompt, output in types if output > m) for m in range(longest)]
    fixed = 1.0 / sum(held)
    entered = [fixed * (1.0 + 1e-3 * (k == longest - 1)) for k in range(longest)]
    for _ in range(400):
        entered.append((1.0 - sum(h * x for h, x in zip(held[1:], entered[::-1], strict=False))) / held[0])
    away = np.abs(np.array(entered) - fixed)
    grown = (away[-40:].max() / away[-240:-200].max()) ** (1 / 200)
    assert grown == pytest.approx(largest_root(types), rel=2e-3)


@pytest.mark.parametrize("name", [mixing.SHORT, mixing.LONG])
def test_the_engine_serves_what_the_recursion_does(name: str) -> None:
    """Whole requests in place of real numbers; each replica of its own group, and both of all lengths."""
    of = mixing.MIXTURES[name]
    apart = sum(completions(group, of.capacity, 3000) - completions(group, of.capacity, 2000) for group in of.groups)
    mixed = 2 * (completions(of.every, of.capacity, 3000) - completions(of.every, of.capacity, 2000))
    for router, expected in ((mixing.APART, apart), (mixing.MIXED, mixed)):
        found = mixing_run(MixingRun(name, router, "in turn", 12_000))
        assert found["per_iteration"] == pytest.approx(expected / 1000, rel=0.02), router


def test_types_in_turn_stay_apart_under_round_robin() -> None:
    runs = {
        router: mixing_run(MixingRun(mixing.LONG, router, "in turn", 8_000)) for router in (mixing.APART, "round-robin")
    }
    assert runs["round-robin"]["per_iteration"] == pytest.approx(runs[mixing.APART]["per_iteration"], rel=0.02)


def arrivals_alone(arrival_s: np.ndarray, output: int, kv: int, seats: int, step: StepTime) -> float:
    """Mean latency where what has arrived runs alone, and who is there only when nothing can enter."""
    arriving, waiting, ages, ends = list(arrival_s), [], {}, []
    now_s = 0.0
    while arriving or waiting or ages:
        if not waiting and not ages:
            now_s = max(now_s, arriving[0])
        while arriving and arriving[0] <= now_s:
            waiting.append(arriving.pop(0))
        new = [waiting.pop(0) for _ in range(min(len(waiting), seats - len(ages)))]
        batch = new or list(ages)
        tokens = sum(kv + ages.get(at, 0) for at in batch)
        now_s += step.duration_s(len(batch), tokens, 0, len(batch))
        for at in batch:
            ages[at] = ages.get(at, 0) + 1
            if ages[at] == output:
                ends.append(now_s - at)
                del ages[at]
    return float(np.mean(ends))


def test_the_papers_vllm_runs_arrivals_alone() -> None:
    """The authors' scheduler, from a reading of it: requests that arrive make up a batch without the residents."""
    hardware = machine(LARGE)
    arrival_s = np.cumsum(np.random.default_rng(3).exponential(1 / 200, 1500))
    load = Workload(arrival_s, np.full(1500, 630), np.full(1500, 20))
    records = run(load, hardware, Greedy(), decode_server.ENGINES[VLLM])
    expected = arrivals_alone(arrival_s, 20, 630, 128, hardware.step_time)
    assert (records.last_token_s - arrival_s).mean() == pytest.approx(expected, rel=1e-9)


def test_the_gain_is_over_that_rule_alone() -> None:
    """The figure's gap is there; vLLM V1, which decodes in every step, has WAIT's latency to a percent."""
    at = (decode_server.PAPERS, LARGE)
    e2e_s = {who: decode_run(DecodeRun(*at, who, 150.0, 1500, 0))["mean_e2e_s"] for who in (VLLM, V1)}
    wait_s = decode_run(DecodeRun(*at, SEARCHED, 150.0, 1500, 0, cap=300))["mean_e2e_s"]
    assert 1 - wait_s / e2e_s[VLLM] > 0.45
    assert wait_s == pytest.approx(e2e_s[V1], rel=0.01)


def test_equilibrium_latency_is_wait_s() -> None:
    """o·ΔT* = o·c0/(1 - λw), plus half a step on average until the first one begins."""
    step, rate, output = machine(LARGE).step_time, 100.0, 20
    w = output * (step.c_tok + step.c_seq) + step.c_kv * output * (630 + (output - 1) / 2)
    step_s = step.c0 / (1 - rate * w)
    found = decode_run(DecodeRun(decode_server.PAPERS, LARGE, V1, rate, 4000, 1))["mean_e2e_s"]
    assert found == pytest.approx((output + 0.5) * step_s, rel=0.03)


def test_the_boundary_by_hand() -> None:
    hardware = machine(FOUR_TERM)
    step, a = hardware.step_time, 20 * (630 + 9.5)
    w = 20 * step.c_tok + step.c_kv * a
    x = hardware.kv_capacity_tokens / (a + 20 * 7.5)
    assert decode_server.boundary(decode_server.PAPERS, FOUR_TERM) == pytest.approx(x / (step.c0 + w * x), rel=1e-9)


def test_long_outputs_gain_as_much_in_rate_where_victims_start_again() -> None:
    """Where memory binds the thresholds do what the paper says of the figure, on a server with nothing but decodes."""
    at = ("p512-d1000", FOUR_TERM)
    greedy, wait = (decode_run(DecodeRun(*at, who, None, 1500, 0)) for who in (V1, "wait"))
    assert greedy["restarts"] > 1
    assert wait["restarts"] == 0
    assert wait["service_rate"] > 1.3 * greedy["service_rate"]
