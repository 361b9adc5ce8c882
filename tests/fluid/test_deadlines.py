"""Deadlines: closed forms of queues with abandonment, linear programs, and runs."""

from heapq import heapreplace
from math import exp, factorial, log

import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.fluid import Deadlines, RequestMix, bound_seconds, deadlines, in_time, plan, stability
from fluidgate.fluid.limits import Limits
from fluidgate.hardware import Hardware, StepTime, get_hardware
from fluidgate.policies import Greedy
from fluidgate.words import percent
from fluidgate.workload import Patience, Workload, parse_timeout

A100 = Hardware("7B on A100", StepTime(0.012, 4e-5, 3.5e-7), num_gpu_blocks=6876)
SEATS = 256


def patience(timeout: str | None = None, ttft_timeout: str | None = None) -> Patience:
    return Patience(parse_timeout("timeout", timeout), parse_timeout("ttft", ttft_timeout))


def geometric(mean: float, longest: int = 4000) -> RequestMix:
    lengths = np.arange(1, longest)
    return RequestMix((1.0 - 1.0 / mean) ** (lengths - 1) / mean, np.ones_like(lengths), lengths)


def on_seats(mix: RequestMix, load: float, patient: Patience, seats: int = 1, step_s: float = 1.0) -> Deadlines:
    """On a machine that seats alone limit, whose iterations all take as long."""
    rate = load * seats / (step_s * mix.mean(mix.iterations))
    return deadlines(mix.scaled(rate), StepTime(step_s), Limits(1e12, max_num_seqs=seats), patient)


@pytest.mark.parametrize("load", [1.05, 1.5, 4.0])
def test_patience_until_the_first_token_serves_the_share_of_whitts_fluid_limit(load: float) -> None:
    """1/ρ of the requests, after a wait of which F(W) = 1 - 1/ρ."""
    found = on_seats(geometric(50), load, patience(None, "exp:5000"), seats=200)
    assert found.stock.completed == pytest.approx(1 / load, rel=1e-6)
    assert found.stock.wait_s == pytest.approx(5000 * log(load), rel=0.02)
    assert found.stock.wasted == pytest.approx(0.0, abs=1e-9)
    fixed = on_seats(geometric(50), load, patience(None, "5000"), seats=200)
    assert fixed.stock.completed == pytest.approx(1 / load, rel=1e-6)
    assert fixed.stock.wait_s == pytest.approx(5000, rel=1e-3)


@pytest.mark.parametrize("load", [1.2, 2.0, 5.0])
def test_memoryless_outputs_lose_nothing_to_a_timeout(load: float) -> None:
    """λE[min(o, k)] = R/ΔT gives 1 - exp(-k/m) = 1/ρ: what leaves half served is no worse than what has just begun."""
    mean, timeout = 400.0, 20_000.0
    found = on_seats(geometric(mean, 12_000), load, patience(f"{timeout}"), seats=64)
    assert found.stock.completed == pytest.approx(1 / load, rel=3e-3)
    assert timeout - found.stock.wait_s == pytest.approx(-mean * log(1 - 1 / load), rel=5e-3)
    # started in order, whatever ends in time: λE[o; o <= k] = R/ΔT
    k = brentq(lambda k: 1 - exp(-k) * (1 + k) - 1 / load, 1e-9, 50)
    assert found.in_order.completed == pytest.approx(1 - exp(-k), rel=5e-3)
    assert found.any_order == pytest.approx(1 - exp(-k), rel=5e-3), "equal requests: the shortest are those that fit"


@pytest.mark.parametrize("load", [1.2, 2.0, 5.0])
def test_equal_requests_are_all_started_too_late(load: float) -> None:
    """First come, first served completes none; they leave after 1/λ of service. At best the boundary is served."""
    found = on_seats(RequestMix([1.0], [1], [100]), load, patience("5000"))
    assert found.stock.completed == 0.0
    assert found.stock.wasted == 1.0
    assert 5000 - found.stock.wait_s == pytest.approx(100 / load, rel=2e-2)
    sent_s = np.arange(10_000) * 100 / load  # request k starts at 100·k while nobody leaves
    waits_s = np.arange(10_000) * 100 - sent_s
    assert found.settles_s == pytest.approx(sent_s[np.argmax(waits_s >= found.stock.wait_s)], rel=2e-2)
    assert found.in_order.completed == pytest.approx(1 / load, rel=1e-6)
    assert found.any_order == pytest.approx(1 / load, rel=1e-6)


def exact(load: float, patient: float, services: str) -> float:
    """The share served of M/M/1 or M/D/1 whose clients wait `patient` services for theirs to begin.

    With U(x) the law of the work in the stable queue ÷ its value at 0, which holds up to the patience at any load:
    U/(1 + ρU) (Barrer, Operations Research 5, 1957, for M/M/1; Erlang's law of the work in M/D/1).
    """
    if services == "M":
        below = 1 + load * (patient if load == 1 else (1 - exp((load - 1) * patient)) / (1 - load))
    else:
        left = [load * (patient - i) for i in range(int(patient) + 1)]
        below = sum(exp(y) * (-y) ** i / factorial(i) for i, y in enumerate(left))
    return below / (1 + load * below)


@pytest.mark.parametrize("services", ["M", "D"])
@pytest.mark.parametrize("load", [0.5, 0.8, 1.5, 2.4])
def test_one_seat_comes_to_the_fluid_limit_as_clients_become_patient(load: float, services: str) -> None:
    mix = geometric(50) if services == "M" else RequestMix([1.0], [1], [50])
    found = on_seats(mix, load, patience(None, "600")).stock.completed
    off = {waits: abs(exact(load, waits, services) - found) for waits in (3, 12)}
    assert off[12] < 0.02
    assert off[12] <= off[3]


@pytest.mark.parametrize("services", ["M", "D"])
@pytest.mark.parametrize("load", [0.8, 1.0, 1.5])
def test_the_simulator_is_the_exact_queue(load: float, services: str) -> None:
    """One seat, iterations of 1 s, a patience of 12 mean services: what the fluid limit is held against is right."""
    rng, n = np.random.default_rng(3), 12_000
    lengths = rng.geometric(1 / 50, n) if services == "M" else np.full(n, 50)
    arrival_s = np.cumsum(rng.exponential(50 / load, n))
    workload = patience(None, "600").of(Workload(arrival_s, np.ones(n, int), lengths), 1)
    records = run(
        workload, Hardware("seat", StepTime(1.0), num_gpu_blocks=10_000), Greedy(), EngineConfig(max_num_seqs=1)
    )
    assert records.finished.mean() == pytest.approx(exact(load, 12, services), abs=0.02)


def chat(rate: float, n: int) -> Workload:
    rng = np.random.default_rng(5)
    prompts = np.maximum(1, rng.lognormal(5.5, 0.8, n)).astype(int)
    outputs = np.clip(rng.geometric(1 / 200, n), 1, 2000)
    return Workload(np.cumsum(rng.exponential(1 / rate, n)), prompts, outputs)


def docs(rate: float, n: int) -> Workload:
    rng = np.random.default_rng(6)
    prompts = np.maximum(1, rng.lognormal(7.0, 0.8, n)).astype(int)
    return Workload(np.cumsum(rng.exponential(1 / rate, n)), prompts, np.clip(rng.geometric(1 / 200, n), 1, 2000))


@pytest.mark.parametrize(
    ("traffic", "timeout", "load", "off"),
    [
        (chat, "60", 0.5, 0.005),
        (chat, "60", 1.5, 0.04),
        (chat, "60", 2.4, 0.04),
        (chat, "exp:60", 0.8, 0.02),
        (chat, "exp:60", 1.5, 0.02),
        (docs, "60", 1.2, 0.03),
        (docs, "60", 2.0, 0.06),
    ],
)
def test_stock_admission_completes_what_the_fluid_limit_says(traffic, timeout: str, load: float, off: float) -> None:
    """Where KV memory limits, once the queue has settled."""
    patient, limits = patience(timeout), Limits.of(A100, 8192, SEATS)
    mix = RequestMix.from_workload(traffic(1.0, 8000))
    boundary = stability(mix, A100.step_time, limits).boundary_rate
    found = deadlines(mix.scaled(load * boundary), A100.step_time, limits, patient)
    workload = patient.of(traffic(load * boundary, 8000), 3)
    records = run(workload, A100, Greedy(), EngineConfig(max_num_seqs=SEATS, max_num_batched_tokens=8192))
    arrival_s = workload.arrival_s
    settled = (arrival_s > arrival_s[-1] / 2) & (arrival_s < arrival_s[-1] - 60.0)
    assert records.finished[settled].mean() == pytest.approx(found.stock.completed, abs=off)
    waste = records.spent_s[settled & records.aborted].sum() / records.spent_s[settled].sum()
    assert waste == pytest.approx(found.stock.wasted, abs=0.1)


@pytest.mark.parametrize("load", [1.2, 2.0])
@pytest.mark.parametrize(("traffic", "beyond"), [(chat, 0.0), (docs, 0.075)])
def test_a_timeout_to_the_first_token_is_between_the_two(traffic, beyond: float, load: float) -> None:
    """Of late prompts that are all computed in vain, and none; long prompts, which differ, exceed the larger."""
    patient, limits = patience(None, "10"), Limits.of(A100, 8192, SEATS)
    mix = RequestMix.from_workload(traffic(1.0, 8000))
    rate = load * stability(mix, A100.step_time, limits).boundary_rate
    found = deadlines(mix.scaled(rate), A100.step_time, limits, patient)
    workload = patient.of(traffic(rate, 8000), 3)
    records = run(workload, A100, Greedy(), EngineConfig(max_num_seqs=SEATS, max_num_batched_tokens=8192))
    arrival_s = workload.arrival_s
    settled = (arrival_s > arrival_s[-1] / 2) & (arrival_s < arrival_s[-1] - 60.0)
    assert found.stock_at_least < records.finished[settled].mean() <= found.stock.completed + beyond


def test_the_h100_case() -> None:
    """4 req/s of 1,082 and 1,448 tokens, 300 s each: a real server completed 732 of 4,800, all in its first minutes.

    Request k starts at k/λ_max and was sent at k/λ: those that start before T - s are (T - s)·λ/(ρ - 1).
    """
    h100 = get_hardware("llama-2-7b", "h100-80gb")
    found = plan(RequestMix([4.0], [1082], [1448]), h100, max_num_seqs=128, patience=patience("300"))
    assert found.deadlines is not None
    assert found.deadlines.stock.completed == 0.0
    stable = found.stability
    first = (300 - 1448 * stable.iteration_time_s) * 4.0 / (stable.load - 1)
    assert first == pytest.approx(732, rel=0.01)
    assert round(first) == 735, "as docs/model.md has it"
    assert found.deadlines.in_order.completed == pytest.approx(1 / stable.load, rel=1e-6)


def followed(arrival_s, services_s, patience_s, seats: int, starts_late: bool) -> float:
    """The share that completes, of requests given seats in order of arrival."""
    free, completed = [0.0] * seats, []
    for sent_s, service_s, patient_s in zip(arrival_s, services_s, patience_s, strict=True):
        begins_s, gone_s = max(sent_s, free[0]), sent_s + patient_s
        in_time = begins_s + service_s <= gone_s
        if in_time or (starts_late and begins_s < gone_s):
            heapreplace(free, min(begins_s + service_s, gone_s))
        completed.append(in_time)
    return float(np.mean(completed[len(completed) // 4 :]))


@pytest.mark.parametrize("timeout", ["5000", "exp:2000"])
@pytest.mark.parametrize("load", [0.8, 1.3, 2.4])
@pytest.mark.parametrize("sigma", [0.5, 1.2])
def test_seats_followed_request_by_request(sigma: float, load: float, timeout: str) -> None:
    rng, seats, n = np.random.default_rng(2), 64, 30_000
    lengths = np.maximum(1, np.exp(rng.normal(5.5, sigma, n))).astype(int)
    patient = patience(timeout)
    found = on_seats(RequestMix(np.ones(n), np.ones(n, int), lengths), load, patient, seats)
    arrival_s = np.cumsum(rng.exponential(lengths.mean() / seats / load, n))
    assert patient.timeout is not None
    queue = arrival_s, lengths.astype(float), patient.timeout.sample(n, rng), seats
    assert followed(*queue, starts_late=True) == pytest.approx(found.stock.completed, abs=0.03)
    assert followed(*queue, starts_late=False) == pytest.approx(found.in_order.completed, abs=0.03)


def test_chance_decides_where_lengths_are_few() -> None:
    """The fluid limit serves two classes of three and none of the third; on 64 seats the wait moves to and fro."""
    rng, seats, n, load = np.random.default_rng(2), 64, 30_000, 1.2
    found = on_seats(RequestMix(np.ones(3), np.ones(3, int), [100, 200, 300]), load, patience("2000"), seats)
    assert found.stock.completed == pytest.approx(2 / 3)
    services_s = rng.choice([100.0, 200.0, 300.0], n)
    arrival_s = np.cumsum(rng.exponential(200 / seats / load, n))
    assert followed(arrival_s, services_s, np.full(n, 2000.0), seats, starts_late=True) == pytest.approx(0.55, abs=0.02)


MIXED = RequestMix(
    np.full(200, 0.1), np.geomspace(20, 4000, 200).astype(int)[::-1], np.geomspace(5, 1500, 200).astype(int)
)


@pytest.mark.parametrize("timeout", ["15", "60", "exp:30", "lognormal:40:0.7"])
@pytest.mark.parametrize("load", [0.7, 1.1, 2.4])
def test_each_admission_completes_at_most_what_the_next_does(load: float, timeout: str) -> None:
    limits = Limits.of(A100, 2048, SEATS)
    rate = load * stability(MIXED, A100.step_time, limits).boundary_rate
    found = deadlines(MIXED.scaled(rate), A100.step_time, limits, patience(timeout))
    assert found.stock.completed <= found.in_order.completed + 1e-9
    assert found.in_order.completed <= found.any_order + 1e-9
    assert 0.0 <= found.stock.wasted <= 1.0


@pytest.mark.parametrize("load", [1.1, 2.4])
def test_any_order_is_the_linear_program(load: float) -> None:
    """The most requests, of those that fit, in as many iterations as time allows."""
    limits = Limits.of(A100, 2048, SEATS)
    stable = stability(MIXED, A100.step_time, limits)
    mix, step = MIXED.scaled(load * stable.boundary_rate), A100.step_time
    found = deadlines(mix, step, limits, patience("30")).any_order
    fits = mix.iterations * step.c0 + mix.work_s(step) <= 30
    takes = np.array([mix.memory_token_iterations(limits.law), mix.tokens, mix.iterations])
    most = [limits.kv_tokens, limits.batched_tokens, limits.seats]
    # y_j completed per second, N iterations per second
    rows = [np.append(mix.work_s(step), step.c0)] + [
        np.append(take / m, -1) for take, m in zip(takes, most, strict=True)
    ]
    best = linprog(
        np.append(-np.ones(len(mix.rate)), 0),
        A_ub=rows,
        b_ub=[1, 0, 0, 0],
        bounds=[(0, r) for r in mix.rate * fits] + [(0, None)],
    )
    share = -best.fun / mix.total_rate
    assert share <= found * (1 + 1e-9), "what any policy can do stays below the bound"
    assert found == pytest.approx(share, rel=0.03)
    assert bound_seconds(mix, step, limits).shape == fits.shape


def test_rate_in_time_by_type_and_age_adds_up_to_the_share() -> None:
    patient = patience("exp:30")
    limits = Limits.of(A100, 8192, SEATS)
    mix = MIXED.scaled(1.5 * stability(MIXED, A100.step_time, limits).boundary_rate)
    stock = deadlines(mix, A100.step_time, limits, patient).stock
    by_type = in_time(patient, stock.wait_s, mix.iterations * stock.iteration_time_s)
    assert mix.mean(by_type) == pytest.approx(stock.completed, abs=0.01)
    assert (np.diff(by_type) <= 0).all(), "the longer the output, the fewer are in time"
    assert in_time(patience("60", "5"), 6.0, np.array([1.0])).tolist() == [0.0]
    assert in_time(patience("60"), 50.0, np.array([9.0, 11.0])).tolist() == [1.0, 0.0]


def test_the_plan_says_whether_deadlines_matter() -> None:
    mix = RequestMix(np.ones(60), np.full(60, 900), np.geomspace(30, 2000, 60).astype(int))
    light, heavy, late = (
        plan(mix, A100, rate=rate, patience=patient)
        for rate, patient in ((0.5, patience("90")), (8.0, patience("90")), (8.0, patience(None, "exp:5")))
    )
    assert heavy.deadlines is not None
    assert light.verdict[-1].startswith("Deadlines do not matter at this load: with a timeout of 90 s")
    assert heavy.verdict[-1].startswith("With a timeout of 90 s stock admission completes about")
    best = f"at best {percent(heavy.deadlines.in_order.completed)} complete in order of arrival"
    assert best in heavy.verdict[-1]
    assert "a TTFT timeout of exp:5" in late.verdict[-1]
    assert heavy.to_dict()["deadlines"]["stock"]["completed"] == heavy.deadlines.stock.completed
    without = plan(mix, A100, rate=8.0)
    assert "deadlines" not in without.to_dict()
    assert without.verdict == heavy.verdict[:-1]


def test_nobody_is_served_where_a_request_alone_takes_longer() -> None:
    found = plan(RequestMix([1.0], [100], [100]), A100, patience=patience("1"))
    assert found.verdict[-1].startswith("With a timeout of 1 s nobody is served in time")


def test_clients_that_never_give_up_have_no_deadlines() -> None:
    with pytest.raises(InputError, match="give a timeout"):
        plan(MIXED, A100, patience=Patience())
