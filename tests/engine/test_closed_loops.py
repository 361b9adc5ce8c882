"""Closed loops and sessions: what is sent when, by hand, against the rule itself, and in every way of running."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fluidgate.arrays import FloatArray
from fluidgate.engine import ROUTERS, EngineConfig, Fleet, FleetRecords, RunRecords, run, run_fleet
from fluidgate.errors import InputError, Stalled
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import summarize
from fluidgate.policies import Greedy, Policy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

from .cases import Case, random_case

SECOND = Hardware("a second a step", StepTime(c0=1.0), num_gpu_blocks=1001, block_size=4)
"""A request of n output tokens that is admitted at once is done n seconds later."""

FLEETS = st.builds(Fleet, st.integers(1, 4), st.sampled_from(ROUTERS), st.integers(0, 3))
TICK_S = 1 / 64


@st.composite
def closed_cases(draw: st.DrawFn) -> Case:
    """A case whose requests wait for replies: a concurrency, turns, or both; times on a grid, so that many tie."""
    workload, hardware, policy, config = random_case(draw(st.randoms(use_true_random=False)))
    if draw(st.booleans()):
        step_time = StepTime(c0=4 * TICK_S)  # steps end on the grid of arrivals and delays
        hardware = replace(hardware, step_time=step_time, grid=None, overhead_s=draw(st.sampled_from([0.0, TICK_S])))
    n = len(workload)
    arrival_s = np.sort(draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))) * TICK_S * draw(st.integers(0, 4))
    closed: dict[str, Any] = {"concurrency": draw(st.sampled_from([None, 1, 2, 3, 5]))}
    if closed["concurrency"] is None or draw(st.booleans()):
        after = np.array([draw(st.integers(-1, i - 1)) if draw(st.booleans()) else -1 for i in range(n)])
        delays = np.array(draw(st.lists(st.sampled_from([0, 0, 1, 4, 30]), min_size=n, max_size=n)))
        closed |= {"after": after, "delay_s": np.where(after < 0, 0, delays) * TICK_S}
    return replace(workload, arrival_s=arrival_s, **closed), hardware, policy, config


def sent_by_the_rule(workload: Workload, left_s: FloatArray) -> list[tuple[float, int]]:
    """(time, row) of every request in order of sending, from when each left, by the rule and nothing clever."""
    n, concurrency = len(workload), workload.concurrency or len(workload)
    after = workload.after if workload.has_sessions else np.full(n, -1)
    sent: list[tuple[float, int]] = []
    while len(sent) < n:
        gone = {row for _, row in sent}
        due = {}
        for row in set(range(n)) - gone:
            if after[row] < 0:
                due[row] = float(workload.arrival_s[row])
            elif after[row] in gone:
                due[row] = max(float(workload.arrival_s[row]), float(left_s[after[row]] + workload.delay_s[row]))
        ends = [float(left_s[row]) for row in gone]
        for time_s in sorted({*due.values(), *ends}):
            in_flight = len(sent) - sum(end <= time_s for end in ends)
            waiting = [(at, row) for row, at in due.items() if at <= time_s]
            if in_flight < concurrency and waiting and (not sent or time_s >= sent[-1][0]):
                sent.append((time_s, min(waiting)[1]))
                break
    return sent


def check_rule(records: RunRecords) -> list[int]:
    """The rows in order of sending, which is the rule's; a router that takes turns shows the order, too."""
    left_s = np.where(records.aborted, records.left_s, records.last_token_s)
    order = sent_by_the_rule(records.workload, left_s + records.hardware.overhead_s)
    for time_s, row in order:
        assert records.arrival_s[row] == time_s, f"request {row}"
    rows = [row for _, row in order]
    if isinstance(records, FleetRecords) and records.router == "round-robin":
        assert records.replica[rows].tolist() == [i % records.replicas for i in range(len(rows))]
    return rows


def alone(records: RunRecords, order: list[int]) -> Workload:
    """The same requests in an open loop, at the times at which they were sent."""
    rows = np.array(order)
    return records.workload.reordered(rows, records.arrival_s[rows]).as_open_loop()


def test_two_in_flight_by_hand() -> None:
    lengths = np.array([5, 2, 4, 1, 1])
    load = Workload(np.array([0.0, 0.0, 0.0, 1.0, 20.0]), np.ones(5, int), lengths, concurrency=2)
    records = run(load, SECOND, Greedy(), record="steps")
    assert records.arrival_s.tolist() == [0, 0, 2, 5, 20]  # two places; free at 2 and 5; the last one comes late
    assert records.last_token_s.tolist() == [5, 2, 6, 6, 21]
    assert records.first_scheduled_s.tolist() == [0, 0, 2, 5, 20]
    check_records(records)


def test_turns_by_hand() -> None:
    """Two sessions: 0 → 1 → 3 with delays of 2 s and 0 s, and 2 → 4, which has to wait for its own arrival."""
    load = Workload(
        np.array([0.0, 0.0, 1.0, 1.0, 9.5]),
        np.ones(5, int),
        np.array([3, 1, 1, 2, 1]),
        after=np.array([-1, 0, -1, 1, 2]),
        delay_s=np.array([0.0, 2.0, 0.0, 0.0, 1.0]),
    )
    records = run(load, SECOND, Greedy())
    assert records.arrival_s.tolist() == [0, 5, 1, 6, 9.5]
    assert records.last_token_s.tolist() == [3, 6, 2, 8, 10.5]


def test_what_http_takes_is_part_of_the_loop() -> None:
    """A client hears of the last token, and its next request arrives, half a second later."""
    load = Workload(np.zeros(3), np.ones(3, int), np.full(3, 2), concurrency=1)
    records = run(load, replace(SECOND, overhead_s=0.5), Greedy())
    assert records.arrival_s.tolist() == [0, 2.5, 5]


def test_a_request_sent_in_the_middle_of_a_step_keeps_its_time() -> None:
    """0 is done at 4, and 2, due at 1.5 with a place free since 1, was sent then; the step that runs ends at 2."""
    load = Workload(np.array([0.0, 0.0, 1.5]), np.ones(3, int), np.array([4, 1, 1]), concurrency=2)
    records = run(load, SECOND, Greedy())
    assert records.arrival_s.tolist() == [0, 0, 1.5]
    assert records.first_scheduled_s.tolist() == [0, 0, 2]


@settings(max_examples=150, deadline=None)
@given(closed_cases())
def test_requests_are_sent_by_the_rule(case: Case) -> None:
    workload, hardware, policy, config = case
    records = run(workload, hardware, policy, config, record="decisions")
    order = check_rule(records)
    check_records(records)
    rows = np.array(order)
    event(f"out of order {bool((np.diff(rows) < 0).any())}, preempted {bool(records.preemptions.any())}")
    opened = run(alone(records, order), hardware, policy, records.config, record="decisions")
    assert opened.end_s == records.end_s
    assert opened.iterations == records.iterations
    for column in ("arrival_s", "first_scheduled_s", "first_token_s", "last_token_s", "preemptions", "cached_tokens"):
        assert np.array_equal(getattr(opened, column), getattr(records, column)[rows]), column
    if workload.concurrency is not None:
        ends_s = np.sort(records.last_token_s + hardware.overhead_s)
        sent_s = np.sort(records.arrival_s)
        before = np.searchsorted(ends_s, sent_s, side="right")
        assert (np.arange(1, len(sent_s) + 1) - before <= workload.concurrency).all()


@settings(max_examples=40, deadline=None)
@given(closed_cases())
def test_interpreted_equals_compiled(case: Case) -> None:
    workload, hardware, policy, config = case
    compiled = run(workload, hardware, policy, config, record="decisions")
    plain = run(workload, hardware, policy, config, record="decisions", compile=False)
    assert np.array_equal(compiled.arrival_s, plain.arrival_s)
    check_same(compiled, plain, "interpreted equals compiled")


@settings(max_examples=100, deadline=None)
@given(closed_cases(), FLEETS)
def test_replicas_do_what_they_do_alone_with_what_they_are_sent(case: Case, fleet: Fleet) -> None:
    workload, hardware, policy, config = case
    whole = run_fleet(workload, hardware, policy, fleet, config)
    check_rule(whole)
    assert whole.finished.all()
    assert (whole.replica >= 0).all()
    for k, part in enumerate(whole.runs):
        if part is not None:
            assert not part.workload.is_closed
            assert len(part) == (whole.replica == k).sum()
            check_same(run(part.workload, part.hardware, policy, part.config), part, "a replica is a run")
    if fleet.replicas == 1:
        check_same(run(workload, hardware, policy, config), whole, "a fleet of one is a run")


@settings(max_examples=25, deadline=None)
@given(closed_cases(), FLEETS)
def test_interpreted_replicas_equal_compiled_ones(case: Case, fleet: Fleet) -> None:
    workload, hardware, policy, config = case
    compiled = run_fleet(workload, hardware, policy, fleet, config)
    plain = run_fleet(workload, hardware, policy, fleet, config, compile=False)
    assert np.array_equal(compiled.replica, plain.replica)
    assert np.array_equal(compiled.arrival_s, plain.arrival_s)
    check_same(compiled, plain, "interpreted equals compiled")


def test_round_robin_takes_turns_in_order_of_sending() -> None:
    load = Workload(
        np.array([0.0, 1.0, 2.0]),
        np.ones(3, int),
        np.array([9, 1, 1]),
        after=np.array([-1, 0, -1]),
        delay_s=np.zeros(3),
    )
    fleet = run_fleet(load, SECOND, Greedy(), Fleet(2))
    assert fleet.arrival_s.tolist() == [0, 9, 2]
    assert fleet.replica.tolist() == [0, 0, 1]


def test_a_quiet_replica_waits_for_what_another_lets_go() -> None:
    """Replica 1 runs row 3 alone from 10 s on; row 2 leaves replica 0 at 15 s, and row 5 goes to replica 1 then."""
    load = Workload(np.zeros(6), np.ones(6, int), np.full(6, 10), concurrency=3)
    hardware = replace(SECOND, num_gpu_blocks=11, block_size=1)
    fleet = run_fleet(load, hardware, Greedy(), Fleet(2), EngineConfig(mode="prefill-first", max_num_seqs=2))
    assert fleet.arrival_s.tolist() == [0, 0, 0, 10, 10, 15]
    assert fleet.first_scheduled_s.tolist() == [0, 0, 0, 10, 10, 15]


def test_who_leaves_as_others_are_due_leaves_first() -> None:
    """At 2 s row 0 leaves and row 3 is due, with a place free; row 1, due then as well, is sent before it."""
    after = {"after": np.array([-1, 0, -1, -1]), "delay_s": np.zeros(4)}
    load = Workload(np.array([0.0, 0.0, 0.0, 2.0]), np.ones(4, int), np.array([2, 1, 9, 1]), concurrency=3, **after)
    records = run(load, SECOND, Greedy(), EngineConfig(max_num_seqs=2))
    assert records.arrival_s.tolist() == [0, 2, 0, 2]
    assert records.first_scheduled_s.tolist() == [0, 2, 0, 3]
    assert run_fleet(load, SECOND, Greedy(), Fleet(3)).replica.tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("router", ROUTERS)
def test_replicas_that_are_out_of_step(router: str) -> None:
    """Steps of different length on every replica, and always more to send than places in flight."""
    for seed in range(3):
        draw = np.random.default_rng(seed)
        load = Workload(np.zeros(90), draw.integers(1, 200, 90), draw.integers(1, 12, 90), concurrency=6)
        hardware = Hardware("out of step", StepTime(c0=0.01, c_tok=1e-3), num_gpu_blocks=501, block_size=4)
        check_rule(run_fleet(load, hardware, Greedy(), Fleet(3, router, seed)))


def test_littles_law() -> None:
    """In flight = throughput × mean residence, while there is something to send."""
    draw = np.random.default_rng(0)
    n, concurrency = 4000, 16
    load = Workload(np.zeros(n), draw.integers(1, 60, n), draw.integers(1, 60, n), concurrency=concurrency)
    hardware = Hardware("small", StepTime(c0=0.01, c_tok=1e-4, c_kv=1e-6), num_gpu_blocks=2001, block_size=4)
    for records in (run(load, hardware, Greedy()), run_fleet(load, hardware, Greedy(), Fleet(3, "least-loaded"))):
        busy = slice(concurrency, n - concurrency)
        begin_s, end_s = records.arrival_s[busy][0], records.arrival_s[busy][-1]
        residence_s = (records.last_token_s - records.arrival_s)[busy].mean()
        throughput = (n - 2 * concurrency - 1) / (end_s - begin_s)
        assert throughput * residence_s == pytest.approx(concurrency, rel=0.01)


def test_a_large_concurrency_is_an_open_loop() -> None:
    draw = np.random.default_rng(1)
    load = Workload(np.cumsum(draw.exponential(0.1, 200)), draw.integers(1, 40, 200), draw.integers(1, 40, 200))
    opened = run(load, SECOND, Greedy(), record="decisions")
    closed = run(replace(load, concurrency=200), SECOND, Greedy(), record="decisions")
    assert np.array_equal(closed.arrival_s, load.arrival_s)
    check_same(opened, closed, "never a place short")


def test_seats_are_a_closed_loop_for_what_waits_at_the_engine() -> None:
    """With all requests there, an engine with C seats does what a closed loop of C does, but for the waits."""
    draw = np.random.default_rng(2)
    load = Workload(np.zeros(100), draw.integers(1, 40, 100), draw.integers(1, 40, 100))
    config = EngineConfig(enable_prefix_caching=False)
    seats = run(load, SECOND, Greedy(), replace(config, max_num_seqs=7))
    loop = run(replace(load, concurrency=7), SECOND, Greedy(), replace(config, max_num_seqs=7))
    assert np.array_equal(seats.last_token_s, loop.last_token_s)
    assert (loop.arrival_s == loop.first_scheduled_s).all()


def _admit_nothing(params, memory, view, out_quota):
    out_quota[:] = 0
    return np.inf


@dataclass(frozen=True)
class Never(Policy):
    """Admits nothing, and may."""

    name: ClassVar[str] = "never in a loop"
    may_idle: ClassVar[bool] = True
    admit = staticmethod(_admit_nothing)


@pytest.mark.parametrize("replicas", [1, 2])
def test_requests_behind_a_policy_that_holds_for_ever_are_never_sent(replicas: int) -> None:
    load = Workload(np.zeros(5), np.ones(5, int), np.ones(5, int), concurrency=2)
    records = run_fleet(load, SECOND, Never(), Fleet(replicas))
    assert records.stalled
    assert records.arrival_s.tolist() == pytest.approx([0, 0, np.nan, np.nan, np.nan], nan_ok=True)
    assert records.replica.tolist() == [0, 1 % replicas, -1, -1, -1]
    summary = summarize(records)
    assert (summary.completed, summary.unfinished) == (0, 5)
    with pytest.raises(Stalled, match="holds requests forever"):
        run_fleet(load, SECOND, Holds(), Fleet(replicas))


@dataclass(frozen=True)
class Holds(Never):
    """Admits nothing, and may not."""

    name: ClassVar[str] = "holds in a loop"
    may_idle: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"after": np.array([-1, 1]), "delay_s": np.zeros(2)}, "request 1: after = 1 is not a row before it"),
        ({"after": np.array([-1, 0]), "delay_s": np.array([0.0, -1.0])}, "request 1: delay_s = -1.0 is not a number"),
        ({"after": np.array([-1, 0]), "delay_s": np.array([1.0, 0.0])}, "request 0: delay_s = 1.0 is after no turn"),
        ({"after": np.array([-1, 0])}, "give both with one per request"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Workload(np.zeros(2), np.ones(2, int), np.ones(2, int), **wrong)
