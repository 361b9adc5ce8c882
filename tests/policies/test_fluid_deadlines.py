"""`fluid` with deadlines: what it learns against closed forms, and what it completes beside stock and known lengths."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.metrics import summarize
from fluidgate.policies import (
    ABORTED,
    ARRIVED,
    FINISHED,
    FIRST_TOKEN,
    Event,
    Fluid,
    FluidVolume,
    Greedy,
    KnownDeadlines,
    Policy,
    QueueCap,
    View,
)
from fluidgate.policies.parts import in_time, pace, patience_law, prompt_groups, token_time, worth
from fluidgate.policies.parts.length_law import LAW_SIZE, estimate, new_law
from fluidgate.workload import Workload
from fluidgate.workload.patience import Patience, parse_timeout

STEP_S = 0.02
SEATS = 32


def machine(blocks: int = 10**5) -> Hardware:
    """Iterations of equal length: the seats bind."""
    return Hardware("constant steps", StepTime(STEP_S), blocks + 1, 16)


CONFIG = EngineConfig(max_num_seqs=SEATS, async_scheduling=False)


def overload(load: float, outputs: FloatArray, timeout_s: float, *, prompt: int = 16, seed: int = 0) -> Workload:
    """Poisson arrivals at this load of the seats."""
    rng, n = np.random.default_rng(seed), len(outputs)
    gap_s = outputs.mean() * STEP_S / SEATS / load
    lengths = np.maximum(1, outputs).astype(np.int64)
    arrival_s = np.cumsum(rng.exponential(gap_s, n))
    return Workload(arrival_s, np.full(n, prompt), lengths, timeout_s=np.full(n, timeout_s))


def success(load: Workload, policy: Policy, hardware: Hardware | None = None) -> float:
    return float(summarize(run(load, hardware or machine(), policy, CONFIG)).success_share)


def fixed(n: int = 4000) -> FloatArray:
    return np.full(n, 200.0)


def exponential(n: int = 6000) -> FloatArray:
    return np.random.default_rng(9).exponential(200.0, n)


# What it learns.


def view_at(now_s: float, iteration: int, residents: list[int]) -> View:
    nothing, none = np.zeros(0), np.zeros(0, np.int64)
    return View(
        now_s, iteration, 10**5, 10**5, 16, 2048, SEATS, np.array(residents, np.int64),
        np.array([-1]), np.array([0]), none, nothing, none, none, none, none, none,
    )  # fmt: skip


def test_the_pace_is_that_of_the_iterations_and_not_of_idle_time() -> None:
    memory, note = pace.new_pace(0.0), interpreted(pace.note_pace)
    assert note(memory, 0, view_at(0.0, 0, [1])) == 0.0
    assert note(memory, 0, view_at(0.5, 10, [1])) == pytest.approx(0.05)
    note(memory, 0, view_at(0.6, 12, [1]))
    assert note(memory, 0, view_at(100.0, 13, [2])) == pytest.approx(0.05)  # the first resident is another one
    assert note(memory, 0, view_at(100.5, 23, [2])) == pytest.approx(0.05)


def test_a_lull_hardly_shortens_the_pace_that_is_counted_on() -> None:
    memory, note, now_s = pace.new_pace(0.0), interpreted(pace.note_pace), 0.0
    for k in range(1, 1001):
        now_s += 0.1 if k <= 800 else 0.02
        counted_on = note(memory, 0, view_at(now_s, k, [1]))
    assert 0.085 < counted_on < 0.1
    for k in range(1001, 20_001):
        now_s += 0.02
        counted_on = note(memory, 0, view_at(now_s, k, [1]))
    assert counted_on == pytest.approx(0.02, rel=0.02)


def needed(quantiles: FloatArray, timeout_s: float) -> tuple[float, float]:
    """(iterations that a request needs to be worth starting, chance of one started at once)."""
    law = new_law(1.0, 16.0, quantiles)
    at = LAW_SIZE
    memory = np.concatenate([law, in_time.new_in_time([in_time.Wanted(timeout_s)], 0.0, False)])
    interpreted(estimate)(memory, 0, 0.0)
    interpreted(in_time.set_need)(memory, at, 1, 0, 0, view_at(0.0, 0, []), STEP_S, False)
    place = at + in_time._HEADER
    return memory[place + in_time._NEED], memory[place + in_time._CHANCE]


def test_of_outputs_of_one_length_the_whole_is_needed() -> None:
    need, chance = needed(np.full(64, 200.0), 300 * STEP_S)
    assert need == pytest.approx(200, abs=2 * 300 / worth.POINTS)
    assert chance > 0.95


def test_of_memoryless_outputs_hardly_anything_is_needed() -> None:
    """P(o ≤ k) = 1 − exp(−k/200), and seats are held in proportion: whatever k is left is worth as much."""
    quantiles = -200.0 * np.log1p(-(np.arange(512) + 0.5) / 512)
    most = 600.0
    need, chance = needed(quantiles, most * STEP_S)
    assert chance == pytest.approx(1 - exp(-most / 200), abs=0.02)
    assert need < 0.2 * most


def test_what_is_short_or_endless_is_worth_most_when_it_is_late() -> None:
    """Half of the outputs take 20 tokens, the others 2,000: of 1,000 iterations 20 are enough."""
    need, chance = needed(np.array([20.0, 2000.0]), 1000 * STEP_S)
    assert chance == pytest.approx(0.5, abs=0.03)
    assert need == pytest.approx(20, abs=2 * 1000 / worth.POINTS)


def test_a_prompt_token_takes_what_it_adds_to_an_iteration() -> None:
    """Iterations of 10 ms and 20 µs a prompt token, shown one call late: a token is worth 1/500 of an iteration."""
    memory, budget, rng = np.zeros(token_time.TOKEN_TIME_SIZE), 2048, np.random.default_rng(7)
    enter, note, per_token = (
        interpreted(kernel)
        for kernel in (token_time.note_entering_tokens, token_time.note_iterations, token_time.iterations_per_token)
    )
    assert per_token(memory, 0, budget) == 1 / budget
    before = 0.0
    for _ in range(20_000):
        tokens = float(rng.choice([0, 0, 0, 500, 1500]))
        enter(memory, 0, tokens)
        note(memory, 0, 1.0, 0.010 + 20e-6 * before, budget)
        before = tokens
    assert per_token(memory, 0, budget) == pytest.approx(1 / 500, rel=0.15)
    note(memory, 0, 1.0, 0.0, budget)  # an engine that may have been idle teaches nothing
    assert per_token(memory, 0, budget) == pytest.approx(1 / 500, rel=0.15)


def test_outputs_are_those_of_prompts_as_long() -> None:
    """Prompts of 1,000 tokens are answered in 50, prompts of 100 in 800; others as their class is."""
    memory = np.zeros(prompt_groups.GROUPS_SIZE)
    note, of_prompt = interpreted(prompt_groups.note_gone), interpreted(prompt_groups.of_prompt)
    for _ in range(2000):
        note(memory, 0, 1000, 50)
        note(memory, 0, 100, 800)
    for prompt, output in ((1000, 50.0), (100, 800.0)):
        assert of_prompt(memory, 0, prompt, 400.0, 4e5)[0] == pytest.approx(output, rel=0.3)
        assert of_prompt(memory, 0, prompt, 400.0, 4e5)[1] == pytest.approx(output**2 / 2, rel=0.5, abs=2e4)
    assert of_prompt(memory, 0, 10, 400.0, 4e5) == (400.0, 4e5)


# What it completes.


@pytest.mark.parametrize("load", [1.12, 2.0, 3.0])
def test_equal_outputs_in_overload_as_many_as_fit(load: float) -> None:
    """1/ρ by the fluid limit with nothing wasted; stock completes next to nothing once the queue has settled."""
    requests = overload(load, fixed(), 15.0)
    fluid, stock, known = (success(requests, p) for p in (Fluid(timeout_s=15.0), Greedy(), KnownDeadlines()))
    bound = plan(RequestMix([SEATS / (200 * STEP_S) * load], [16], [200]), machine(), max_num_seqs=SEATS)
    assert bound.stability.load == pytest.approx(load, rel=0.01)
    assert fluid > (2 if load >= 2 else 1.5) * stock  # near the boundary it takes stock longer to collapse
    assert fluid == pytest.approx(1 / load, abs=0.06)
    assert fluid >= 0.93 * known


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("outputs", [fixed(), exponential()], ids=["equal", "memoryless"])
def test_below_the_boundary_no_fewer_than_stock(load: float, outputs: FloatArray) -> None:
    requests = overload(load, outputs, 30.0)
    assert success(requests, Fluid(timeout_s=30.0)) >= 0.99 * success(requests, Greedy())


@pytest.mark.parametrize("load", [1.2, 2.0])
def test_unknown_lengths_cost_little_where_all_services_fit(load: float) -> None:
    outputs = np.random.default_rng(4).integers(1, 400, 6000).astype(float)
    requests = overload(load, outputs, 20.0)
    policy = Fluid(timeout_s=20.0)
    fluid = success(requests, policy)
    assert fluid >= max(success(requests, QueueCap(float(n))) for n in (0, 4, 16, 64))
    assert fluid >= 0.95 / load
    assert summarize(run(requests, machine(), policy, CONFIG)).wasted_share < 0.05


def test_the_first_token_alone() -> None:
    """Whoever gets a token stays: with 2 s of patience until then, 1/ρ are served, and next to none wait in vain."""
    n, load = 6000, 1.5
    requests = replace(
        overload(load, exponential(n), np.inf), timeout_s=np.full(n, np.inf), ttft_timeout_s=np.full(n, 2.0)
    )
    records = run(requests, machine(), Fluid(ttft_timeout_s=2.0), CONFIG)
    assert records.finished.mean() == pytest.approx(1 / load, abs=0.04)
    assert summarize(records).wasted_share < 0.03


def test_a_burst_that_an_idle_engine_takes_is_not_refused() -> None:
    """After an overload has taught it how slowly a queue moves, 30 requests come at once and find 32 free seats."""
    first = overload(2.0, fixed(1500), 15.0)
    end_s = first.arrival_s[-1] + 100.0
    n = len(first) + 30
    arrival_s = np.concatenate([first.arrival_s, np.full(30, end_s)])
    requests = Workload(arrival_s, np.full(n, 16), np.full(n, 200), timeout_s=np.full(n, 15.0))
    records = run(requests, machine(), Fluid(timeout_s=15.0), CONFIG)
    assert records.shed[:-30].any()
    assert records.finished[-30:].all()


def test_long_prompts_pay_where_memory_binds_and_all_finish_where_it_does_not() -> None:
    rng, n = np.random.default_rng(6), 3000
    prompt, output = rng.choice([100, 3000], n), rng.integers(50, 150, n)
    requests = Workload(np.cumsum(rng.exponential(0.05, n)), prompt, output, timeout_s=np.full(n, 20.0))
    small = Hardware("small", StepTime(STEP_S, c_tok=1e-6), 2000, 16)
    config = EngineConfig(async_scheduling=False)
    records = run(requests, small, Fluid(timeout_s=20.0), config)
    by_prompt = [records.finished[prompt == tokens].mean() for tokens in (100, 3000)]
    assert by_prompt[0] > 0.95 > by_prompt[1]
    assert records.finished.mean() > 1.2 * summarize(run(requests, small, Greedy(), config)).success_share
    large = Hardware("large", StepTime(STEP_S, c_tok=1e-6), 10**6, 16)
    assert run(requests, large, Fluid(timeout_s=20.0), config).finished.mean() > 0.99


def test_those_whose_prompts_promise_short_answers_go_first() -> None:
    """Where long prompts have short answers, as in reasoning, it is the short ones that take most and are shed."""
    rng, n = np.random.default_rng(11), 6000
    is_long = rng.random(n) < 0.5
    outputs = np.where(is_long, 50.0, 800.0)
    requests = overload(2.0, outputs, 60.0)
    requests = replace(requests, prompt_tokens=np.where(is_long, 1000, 100))
    records = run(requests, machine(), Fluid(timeout_s=60.0), CONFIG)
    late = requests.arrival_s > requests.arrival_s[-1] / 2
    assert records.finished[late & is_long].mean() > 0.95
    assert records.finished[late].mean() > success(requests, Greedy())


def test_nobody_is_shed_while_seats_are_free() -> None:
    """Prompts that take several iterations now and then keep nobody out, however wide the law of lengths is."""
    rng, n = np.random.default_rng(12), 2000
    outputs = rng.choice([20, 2000], n)
    requests = Workload(
        np.cumsum(rng.exponential(1.0, n)), rng.choice([16, 8000], n), outputs, timeout_s=np.full(n, 9.0)
    )
    machine_ = Hardware("prompts take long", StepTime(STEP_S, c_tok=1e-4), 10**5, 16)
    records = run(requests, machine_, Fluid(timeout_s=9.0), CONFIG)
    assert not records.shed.any()


def test_a_long_queue_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seldom is nearly as good as every time, and nobody is started that has waited too long."""
    requests = overload(2.0, fixed(1000), 15.0)
    finished = []
    for looked_at in (16.0, 1e9):
        monkeypatch.setattr(in_time, "LOOKED_AT", looked_at)
        records = run(requests, machine(), Fluid(timeout_s=15.0), CONFIG, compile=False)
        assert summarize(records).wasted_share < 0.05
        finished.append(records.finished.mean())
    assert finished[0] == pytest.approx(finished[1], abs=0.03)


def prompt_bound(n: int, load: float = 1.5) -> tuple[Hardware, Workload]:
    """Prompts of 4,000 tokens take 82 ms each, and their few outputs next to nothing."""
    slow_prompts = Hardware("slow prompts", StepTime(0.002, c_tok=2e-5), 10**5, 16)
    arrival_s = np.cumsum(np.random.default_rng(13).exponential(0.082 / load, n))
    return slow_prompts, Workload(arrival_s, np.full(n, 4000), np.full(n, 40), timeout_s=np.full(n, 5.0))


def test_prompts_that_fill_the_token_budget_are_waited_for() -> None:
    """Seats and memory are free, and still there is a queue: nobody is started with too little time left."""
    slow_prompts, requests = prompt_bound(1500)
    records = run(requests, slow_prompts, Fluid(timeout_s=5.0), CONFIG)
    assert records.finished.mean() > 0.6
    assert summarize(records).wasted_share < 0.05


def test_a_class_goes_first_where_prompts_bind_as_well() -> None:
    """Chat, 3/4 of what the prompts' time allows, all ends in its 5 s; batch has what is left."""
    slow_prompts, requests = prompt_bound(1500)
    requests = replace(requests, class_id=np.arange(1500) % 2, class_names=("batch", "chat"))
    requests = replace(requests, timeout_s=np.where(requests.class_id == 1, 5.0, np.inf))
    records = run(requests, slow_prompts, Fluid(**CLASSES, class_timeouts_s=(0.0, 5.0)), CONFIG)
    assert records.finished[requests.class_id == 1].mean() > 0.95
    assert records.finished[requests.class_id == 0].all()


# Classes of requests.


def two_classes(load: float, n: int = 5000) -> Workload:
    """Requests of one law, labels in turn."""
    requests = overload(load, np.random.default_rng(4).integers(1, 400, n).astype(float), 15.0)
    return replace(requests, class_id=np.arange(n) % 2, class_names=("batch", "chat"))


def shares_completed(policy: Fluid) -> list[float]:
    requests = two_classes(2.0)
    records = run(requests, machine(), policy, CONFIG)
    late = requests.arrival_s > requests.arrival_s[-1] / 3
    return [float(records.finished[late & (requests.class_id == c)].mean()) for c in (0, 1)]


CLASSES: dict[str, tuple[float, ...]] = {"shares": (0.5, 0.5), "prompt_tokens": (16.0, 16.0)}


def test_the_class_that_is_worth_more_is_served_first() -> None:
    """Of load 2 half can be served: of two equal classes half of each, or nearly all of that which counts twice."""
    even = shares_completed(Fluid(**CLASSES, timeout_s=15.0))
    weighted = shares_completed(Fluid(**CLASSES, timeout_s=15.0, class_weights=(1.0, 2.0)))
    assert even == pytest.approx([0.5, 0.5], abs=0.12)
    assert weighted[1] > 0.85
    assert weighted[0] < 0.2
    assert sum(weighted) == pytest.approx(sum(even), abs=0.1)


def test_a_floor_keeps_a_class_from_being_given_up_for_others() -> None:
    served = shares_completed(Fluid(**CLASSES, timeout_s=15.0, class_weights=(1.0, 2.0), class_floors=(0.2, 0.0)))
    assert 0.18 < served[0] < 0.35
    assert sum(served) == pytest.approx(1.0, abs=0.1)


def test_each_class_has_its_own_deadline() -> None:
    """At 1.5 of the boundary chat waits 12 s and batch for ever: chat goes first, and all of batch gets its turn."""
    requests = two_classes(1.5, 3000)
    requests = replace(requests, timeout_s=np.where(requests.class_id == 1, 12.0, np.inf))
    records = run(requests, machine(), Fluid(**CLASSES, class_timeouts_s=(0.0, 12.0)), CONFIG)
    batch = requests.class_id == 0
    assert records.finished[batch].all()
    assert records.finished[~batch].mean() > 0.95
    assert summarize(records).wasted_share < 0.02


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            {"class_weights": (1.0, 2.0)},
            "class_weights and class_floors count only under deadlines; give timeout_s too",
        ),
        ({"class_weights": (1.0,)}, "class_weights needs one number per class, 2 in all"),
        ({"class_weights": (0.0, 1.0)}, r"class_weights = \(0.0, 1.0\) must be from 1e-06 to 1e\+06"),
        ({"class_floors": (0.2, 1.5)}, "class_floors = .* must be from 0 to 1"),
        ({"class_timeouts_s": (-1.0, 1.0)}, "class_timeouts_s = .* must be from 0 to"),
    ],
    ids=str,
)
def test_numbers_of_classes_that_cannot_be_are_refused(wrong: dict[str, tuple[float, ...]], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Fluid(**CLASSES, **wrong)


def announced(seed: int) -> RunRecords:
    rng, n = np.random.default_rng(seed), 4000
    timeout_s = rng.choice([6.0, 40.0], n)
    requests = replace(overload(3.0, fixed(n), 1.0), timeout_s=timeout_s)
    return run(requests, machine(), Fluid(announced=True), CONFIG)


def test_what_clients_announce_counts_for_each() -> None:
    """Of equal requests those with little patience are shed earlier, and none is served for nothing."""
    records = announced(2)
    patience_s = records.workload.timeout_s
    waited_s = records.first_scheduled_s - records.arrival_s
    assert np.nanmax(waited_s[patience_s == 6.0]) < 3.0
    assert np.nanmax(waited_s[patience_s == 40.0]) > 20.0
    assert summarize(records).wasted_share < 0.02
    assert records.finished.sum() * 200 * STEP_S > 0.95 * SEATS * records.busy_s


@pytest.mark.parametrize("default_s", [0.0, 40.0])
def test_what_some_announce_sheds_none_of_those_that_say_nothing(default_s: float) -> None:
    """Below the boundary, half of the clients say that they wait for a hundredth of a second."""
    rng, n = np.random.default_rng(5), 3000
    timeout_s = rng.choice([0.01, np.inf], n)
    requests = replace(overload(0.9, fixed(n), 1.0), timeout_s=timeout_s)
    records = run(requests, machine(), Fluid(announced=True, timeout_s=default_s), CONFIG)
    assert records.finished[timeout_s == np.inf].all()


def test_residents_without_a_chance_go_only_if_asked_for() -> None:
    outputs = np.where(np.random.default_rng(8).random(3000) < 0.8, 100.0, 1000.0)
    requests = overload(3.0, outputs, 10.0)  # the long ones take 20 s
    kept = run(requests, machine(), Fluid(timeout_s=10.0), CONFIG)
    dropped = run(requests, machine(), Fluid(timeout_s=10.0, drop_residents=True), CONFIG)
    began = ~np.isnan(kept.first_scheduled_s)
    assert not (kept.shed & began).any()
    assert (dropped.shed & ~np.isnan(dropped.first_scheduled_s)).sum() > 50
    assert dropped.finished.sum() >= kept.finished.sum()
    assert summarize(dropped).wasted_share < summarize(kept).wasted_share


@pytest.mark.parametrize("change", ["rate", "lengths"])
def test_it_holds_again_two_services_after_a_change(change: str) -> None:
    """At load 1 the rate or the lengths double: of those that come two services later as many as fit are served."""
    n = 6000
    outputs = np.where(np.arange(n) < n // 2, 200.0, 400.0 if change == "lengths" else 200.0)
    steady = overload(1.0, fixed(n), 20.0)
    gap_s = np.diff(steady.arrival_s, prepend=0.0)
    gap_s[n // 2 :] /= 2.0 if change == "rate" else 1.0
    requests = Workload(np.cumsum(gap_s), np.full(n, 16), outputs.astype(np.int64), timeout_s=np.full(n, 20.0))
    records = run(requests, machine(), Fluid(timeout_s=20.0), CONFIG)
    changed_s = requests.arrival_s[n // 2]
    service_s = outputs[-1] * STEP_S
    after = (requests.arrival_s > changed_s + 2 * service_s) & (requests.arrival_s < requests.arrival_s[-1] - 20.0)
    assert records.finished[after].mean() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("patience", "expected"),
    [(("60", None), (60.0, 0.0)), ((None, "2.5"), (0.0, 2.5)), (("exp:60", "2"), (0.0, 2.0)), (None, (0.0, 0.0))],
    ids=str,
)
def test_a_plan_for_clients_that_wait_so_long_makes_a_policy_for_them(
    patience: tuple[str | None, str | None] | None, expected: tuple[float, float]
) -> None:
    clients = None if patience is None else Patience(*(law and parse_timeout("timeout", law) for law in patience))
    planned = plan(RequestMix([4.0], [16], [200]), machine(), max_num_seqs=SEATS, patience=clients)
    policy = Fluid.from_plan(planned)
    assert (policy.timeout_s, policy.ttft_timeout_s) == expected
    assert not FluidVolume.from_plan(planned).sheds


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_s": -1.0}, {"timeout_s": np.inf}, {"ttft_timeout_s": np.nan}, {"ttft_timeout_s": -0.5}],
    ids=str,
)
def test_deadlines_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"must be at least 0 seconds, and finite"):
        Fluid(**wrong)


def test_the_policy_that_orders_its_queue_sheds_nobody() -> None:
    with pytest.raises(InputError, match=r"fluid-volume: sheds nobody: leave its timeouts out, or take fluid"):
        FluidVolume(timeout_s=5.0)


# Patience that is learned.


def event(kind: int, age_s: float, tokens: int) -> Event:
    return Event(kind, age_s, 0, 0.0, 16, tokens, 16, 0, 0)


def test_the_law_of_patience_is_kaplan_and_meiers() -> None:
    """Of 100 that stream from 1 s on, 20 end at 5 s, then 40 leave at 10 s, 30 end at 20 s, and 10 leave at 40 s."""
    memory, note = np.zeros(patience_law.PATIENCE_SIZE), interpreted(patience_law.note_patience)
    ends = [(FINISHED, 5.0)] * 20 + [(ABORTED, 10.0)] * 40 + [(FINISHED, 20.0)] * 30 + [(ABORTED, 40.0)] * 10
    for kind, age_s in ends:
        note(memory, 0, event(ARRIVED, 0.0, 0))
        note(memory, 0, event(FIRST_TOKEN, 1.0, 0))
        note(memory, 0, event(kind, age_s, 5))
    assert interpreted(patience_law.learn_patience)(memory, 0, view_at(0.0, 0, []))
    stays = interpreted(patience_law.stays)
    assert [stays(memory, 0, True, age_s) for age_s in (4.0, 9.9, 10.1, 39.0, 41.0)] == pytest.approx(
        [1.0, 1.0, 0.5, 0.5, 0.0]
    )
    assert stays(memory, 0, False, 60.0) == 1.0  # nobody left before the first token
    assert interpreted(patience_law.patience_ends_s)(memory, 0) == pytest.approx(40.0)


@pytest.mark.parametrize("load", [1.12, 2.0])
def test_learned_from_those_who_leave_it_is_nearly_as_good_as_told(load: float) -> None:
    requests = overload(load, fixed(8000), 15.0)
    told, learned = (success(requests, policy) for policy in (Fluid(timeout_s=15.0), Fluid(learned=True)))
    assert learned >= 0.9 * told
    assert learned > 2 * success(requests, Greedy())


@pytest.mark.parametrize("load", [0.8, 1.3])
def test_of_memoryless_clients_nothing_is_learned_that_harms(load: float) -> None:
    """Whoever has waited is as patient as ever: nothing is gained by shedding, and stock's share is kept."""
    requests = overload(load, exponential(), 15.0)
    patience_s = np.random.default_rng(3).exponential(15.0, len(requests))
    requests = replace(requests, timeout_s=patience_s)
    assert success(requests, Fluid(learned=True)) >= 0.97 * success(requests, Greedy())
