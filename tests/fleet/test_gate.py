"""The gate from outside, worked by hand: where a request goes, who waits, and what gauges change."""

from dataclasses import replace
from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.fleet import Admit, FleetGate, Gauges, Refuse, Replica, Wait
from fluidgate.policies import Fluid
from fluidgate.policies.parts.fluid_memory import COHERENCE
from fluidgate.serving.gate import Entry, Gate, Limits, Room, Standing

BLOCKS = 400
EVEN = Fluid(output_quantiles=tuple(float(n) for n in range(50, 450, 8)), prompt_tokens=(64.0,))
"""A prior with which lengths are spread so evenly that nothing is paced."""


def gate_of(*names: str, blocks: int = BLOCKS, policy: Fluid = EVEN, **options: float) -> FleetGate:
    return FleetGate([Replica(name, blocks, 16, 64) for name in names], policy, **options)  # type: ignore[arg-type]


def fill(gate: FleetGate, now_s: float = 0.0) -> int:
    """Let requests come until one waits; returns how many were let in."""
    for k in range(1000):
        if isinstance(gate.arrive(f"fill {k}", 64, now_s=now_s), Wait):
            return k
    raise AssertionError("nobody ever waits")


def test_requests_go_to_the_emptiest_replica_in_turn() -> None:
    gate = gate_of("a", "b", "c")
    answers = [gate.arrive(str(k), 64, now_s=0.0) for k in range(6)]
    assert answers == [Admit("a"), Admit("b"), Admit("c"), Admit("a"), Admit("b"), Admit("c")]
    gate.note_end("1", 1.0, 10)
    assert gate.arrive("6", 64, now_s=1.0) == Admit("b")
    for name in ("0", "3"):
        gate.note_tokens(name, 440, 2.0)
    assert [gate.arrive(name, 64, now_s=3.0) for name in ("7", "8")] == [Admit("c"), Admit("b")]


def test_who_finds_no_room_waits_and_goes_when_somebody_ends() -> None:
    gate = gate_of("a")
    let_in = fill(gate)
    assert 2 < let_in < BLOCKS * 16 / 64
    assert isinstance(gate.arrive("next", 64, now_s=0.0), Wait)
    assert gate.released(0.1) == []
    for k in range(3):
        gate.note_end(f"fill {k}", 1.0, 64)
    released = gate.released(1.0)
    assert [name for name, _ in released][:1] == [f"fill {let_in}"]
    assert all(answer == Admit("a") for _, answer in released)


def test_seats_limit_what_is_in_flight() -> None:
    gate = FleetGate([Replica("a", 100_000, 16, 3)], EVEN)
    assert fill(gate) == 3


def test_a_prompt_that_no_replica_holds_is_refused_for_good() -> None:
    gate = gate_of("a", blocks=4)
    assert gate.arrive("long", 65, now_s=0.0) == Refuse(inf)
    assert gate.arrive("fits", 64, now_s=0.0) == Admit("a")


def test_who_cannot_start_in_time_is_refused() -> None:
    gate = gate_of("a")
    let_in = fill(gate)
    for k in range(2):  # iterations of 50 ms, and a start every 10 s
        gate.note_tokens(f"fill {k}", 1, 0.0)
        gate.released(0.3 + k)
        gate.note_tokens(f"fill {k}", 40, 2.0)
    for k in range(100):
        gate.arrive(f"later {k}", 64, now_s=2.0)
    for k in range(let_in):
        gate.note_end(f"fill {k}", 20.0 + 10 * k, 400)
        gate.released(20.0 + 10 * k)
    assert gate.expected_s(1) > 1.0
    answer = gate.arrive("impatient", 64, now_s=600.0, timeout_s=5.0)
    assert isinstance(answer, Refuse)
    assert answer.retry_after_s >= 1.0
    assert isinstance(gate.arrive("patient", 64, now_s=600.0, timeout_s=1e6), Wait)


def test_those_that_wait_too_long_are_refused_where_the_gate_is_asked() -> None:
    gate = gate_of("a")
    fill(gate)
    gate.note_tokens("fill 0", 1, 0.0)
    gate.released(0.3)
    gate.note_tokens("fill 0", 20, 1.0)
    assert isinstance(gate.arrive("short", 64, now_s=1.0, timeout_s=30.0), Wait)
    gate.note_failure(
        next(name for name in gate.books.row_of if gate.books.row_of[name] == next(iter(gate.waiting))), 2.0
    )
    ((name, answer),) = gate.released(40.0)
    assert name == "short"
    assert isinstance(answer, Refuse)


def test_the_timeouts_of_the_policy_hold_for_those_that_say_none() -> None:
    gate = gate_of("a", policy=replace(EVEN, timeout_s=30.0))
    fill(gate)
    gate.note_tokens("fill 0", 1, 0.0)
    gate.released(0.3)
    gate.note_tokens("fill 0", 20, 1.0)
    assert isinstance(gate.arrive("silent", 64, now_s=1.0), Wait)
    assert isinstance(gate.arrive("patient", 64, now_s=1.0, timeout_s=1e6), Wait)
    refused = [name for name, answer in gate.released(40.0) if isinstance(answer, Refuse)]
    assert "silent" in refused
    assert "patient" not in refused


def test_the_queue_is_bounded_where_that_is_asked_for() -> None:
    gate = gate_of("a", most_waiting=2)
    fill(gate)
    assert isinstance(gate.arrive("second", 64, now_s=0.0), Wait)
    assert isinstance(gate.arrive("third", 64, now_s=0.0), Refuse)
    assert len(gate.waiting) == 2


def test_a_dead_replica_gives_back_what_it_had() -> None:
    gate = gate_of("a", "b")
    for k in range(4):
        gate.arrive(str(k), 64, now_s=0.0)
    assert gate.replica_died("a", 1.0) == ["0", "2"]
    assert gate.arrive("0", 64, now_s=1.0, again=True) == Admit("b")
    assert gate.replica_died("b", 2.0) == ["1", "3", "0"]
    assert isinstance(gate.arrive("0", 64, now_s=2.0, again=True), Wait)
    gate.add_replica(Replica("a", BLOCKS), 3.0)
    assert gate.released(3.0) == [("0", Admit("a"))]


def test_who_was_lost_goes_before_those_that_wait() -> None:
    gate = gate_of("a")
    let_in = fill(gate)
    assert isinstance(gate.arrive("lost", 64, now_s=0.0, again=True), Wait)
    for k in range(let_in):
        gate.note_end(f"fill {k}", 1.0, 64)
    assert [name for name, _ in gate.released(1.0)] == ["lost", f"fill {let_in}"]


def test_when_the_first_leaves_the_one_behind_it_is_asked_for() -> None:
    gate = gate_of("a", "b")
    gate.drain_replica("b", 0.0)
    assert gate.arrive("0", 3000, now_s=0.0) == Admit("a")
    assert isinstance(gate.arrive("long", 5500, now_s=0.0), Wait)
    assert isinstance(gate.arrive("short", 64, now_s=0.0), Wait)
    assert gate.released(0.1) == []
    gate.note_failure("long", 0.2)
    assert gate.released(0.2) == [("short", Admit("a"))]


def test_a_drained_replica_that_resumes_takes_requests_with_what_it_has() -> None:
    gate = FleetGate([Replica("a", BLOCKS, 16, 2)], EVEN)
    assert gate.arrive("0", 64, now_s=0.0) == Admit("a")
    gate.drain_replica("a", 0.0)
    assert isinstance(gate.arrive("1", 64, now_s=0.0), Wait)
    assert gate.released(0.1) == []
    gate.resume_replica("a", 0.2)
    assert gate.released(0.2) == [("1", Admit("a"))]
    assert isinstance(gate.arrive("2", 64, now_s=0.2), Wait)  # the first has its seat still


def test_a_replica_that_is_resized_takes_what_one_of_that_size_takes() -> None:
    gates = [gate_of("a", blocks=blocks) for blocks in (BLOCKS, 2 * BLOCKS, 2 * BLOCKS)]
    gates[1].resize_replica("a", BLOCKS)
    let_in = [fill(gate) for gate in gates]
    assert let_in[0] == let_in[1] < let_in[2]
    gates[1].resize_replica("a", 2 * BLOCKS)
    assert let_in[1] + sum(isinstance(answer, Admit) for _, answer in gates[1].released(0.0)) == let_in[1] + 1
    with pytest.raises(InputError, match="total_blocks"):
        gates[1].resize_replica("a", 0)


def test_who_waits_for_a_replica_that_has_gone_holds_up_nobody() -> None:
    gate = FleetGate([Replica("large", BLOCKS, 16, 1), Replica("small", 8, 16, 1)], EVEN)
    assert [gate.arrive(name, 64, now_s=0.0) for name in ("0", "1")] == [Admit("large"), Admit("small")]
    assert all(isinstance(gate.arrive(name, size, now_s=0.0), Wait) for name, size in (("2", 256), ("3", 64)))
    gate.replica_died("large", 1.0)
    gate.note_end("1", 1.0, 10)
    (long, refused), (short, admitted) = gate.released(1.0)
    assert (long, short, admitted) == ("2", "3", Admit("small"))
    assert isinstance(refused, Refuse)


def test_a_draining_replica_takes_no_more() -> None:
    gate = gate_of("a", "b")
    gate.drain_replica("a", 0.0)
    assert [gate.arrive(str(k), 64, now_s=0.0) for k in range(2)] == [Admit("b"), Admit("b")]


def test_what_others_hold_is_room_that_is_gone() -> None:
    free, shared = gate_of("a"), gate_of("a")
    for gate, use in ((free, 0.0), (shared, 0.5)):
        gate.note_gauges("a", Gauges(0, 5 * (use > 0), use, 0, measured_s=1.0), 2.0)
    assert fill(shared, 2.0) < 0.7 * fill(free, 2.0)


def test_gauges_count_what_was_sent_after_them_once() -> None:
    """Half of the cache, all of it ours, measured before as many again were sent: others hold nothing."""
    gate = FleetGate([Replica("a", 1000)], EVEN)
    for k in range(5):
        gate.arrive(str(k), 1600, now_s=0.0)
        gate.note_tokens(str(k), 1, 1.0)
    gate.arrive("later", 1600, now_s=3.0)
    gate.note_gauges("a", Gauges(0, 5, 0.505, 0, measured_s=2.0), 4.0)
    assert gate.books.fleet.table[0].others_kv == 0
    gate.note_end("0", 4.5, 20)
    gate.note_gauges("a", Gauges(0, 6, 0.605, 0, measured_s=4.0), 5.0)
    assert gate.books.fleet.table[0].others_kv == 0
    gate.note_gauges("a", Gauges(0, 9, 0.9, 0, measured_s=5.0), 6.0)
    assert 16_000 * 0.38 < gate.books.fleet.table[0].others_kv < 16_000 * 0.41  # 0.9 less five of 0.1


def test_evictions_raise_the_margin_of_their_replica() -> None:
    gate = gate_of("a", "b")
    for now_s, evicted in ((1.0, 0), (2.0, 50)):
        gate.note_gauges("a", Gauges(0, 0, 0, 7 + evicted, measured_s=now_s), now_s)
        gate.note_gauges("b", Gauges(0, 0, 0, 7, measured_s=now_s), now_s)
    answers = []
    while not isinstance(answer := gate.arrive(str(len(answers)), 64, now_s=2.0), Wait):
        answers.append(answer)
    assert answers.count(Admit("a")) < answers.count(Admit("b"))


def test_several_gates_without_gauges_share_a_replica() -> None:
    let_in = [fill(gate_of("a", gates=gates)) for gates in (1, 2, 4)]
    assert let_in[1] <= let_in[0] / 2
    assert let_in[2] <= let_in[0] / 4
    assert let_in[2] >= 1


def test_a_prefix_draws_a_request_while_its_replica_has_nearly_the_most_room() -> None:
    for loss, expected in ((0.5, "a"), (0.0, "b")):
        gate = gate_of("a", "b", blocks=1000, affinity_loss=loss)
        assert gate.arrive("0", 64, now_s=0.0, prefix="session") == Admit("a")
        assert gate.arrive("1", 64, now_s=0.0, prefix="session") == Admit(expected)


def test_without_streams_ages_follow_from_time_and_pace() -> None:
    gate = gate_of("a", blocks=10_000)
    gate.arrive("first", 64, now_s=0.0)
    gate.note_end("first", 10.0, 100)
    assert gate.pace_s == pytest.approx(0.1)
    gate.arrive("second", 64, now_s=10.0)
    gate.arrive("third", 64, now_s=30.0)  # asks for a forecast
    assert gate.books.rows.generated_tokens[gate.row_of("second")] == 200


def test_names_times_and_numbers_that_cannot_be_are_refused() -> None:
    gate = gate_of("a")
    gate.arrive("0", 64, now_s=1.0)
    for call, words in (
        (lambda: gate.arrive("0", 64, now_s=1.0), "at the gate already"),
        (lambda: gate.arrive("1", 0, now_s=1.0), "prompt_tokens"),
        (lambda: gate.arrive("1", 64, now_s=0.5), "time went back"),
        (lambda: gate.note_end("2", 1.0), "not at the gate"),
        (lambda: gate.note_tokens("0", -1, 1.0), "cannot have -1 tokens"),
        (lambda: gate.note_tokens_of(np.array([gate.row_of("0")]), np.array([-2]), 1.0), "cannot have -2 tokens"),
        (lambda: gate.replica_died("b", 1.0), "unknown replica"),
        (lambda: gate.add_replica(Replica("a", 1), 1.0), "in the fleet already"),
        (lambda: Gauges(-1, 0, 0), "waiting = -1"),
        (lambda: Gauges(0, 0, 1.5), "kv_use"),
        (lambda: FleetGate(gates=0), "gates"),
    ):
        with pytest.raises(InputError, match=words):
            call()  # type: ignore[no-untyped-call]
    assert isnan(gate.expected_s(1))


def inside(ages: list[int], prompts: list[int]) -> tuple[int, Gate]:
    """How many of the waiting the policy lets in that runs inside of an engine with residents of these ages."""
    gate = Gate(EVEN, Limits(BLOCKS, 16, 1 << 30, 64))
    for k, age in enumerate(ages):
        gate.joined(Standing(f"in {k}", 64, 0, 0), 0.0)
        gate.book(0.0, {f"in {k}": 64}, {f"in {k}": Entry(0, 0)})
        row = gate.books.row_of[f"in {k}"]
        gate.books.ints["generated"][row], gate.books.ints["computed"][row] = age, 64 + age - 1
    for k, prompt in enumerate(prompts):
        gate.joined(Standing(f"out {k}", prompt, 0, 0), 0.0)
    held = sum(-(-(64 + age - 1) // 16) for age in ages)
    admit = gate.decide(1.0, Room(BLOCKS - held)).admit
    return len(prompts) if admit is None else min(admit, len(prompts)), gate


def outside(ages: list[int], prompts: list[int]) -> int:
    gate = FleetGate([Replica("a", BLOCKS, 16, 64)], EVEN)
    for k, age in enumerate(ages):
        gate.waiting.clear()
        gate.arrive(f"in {k}", 64, now_s=0.0)
        if gate.waiting:  # it is there, room or not
            gate._send(gate.waiting and next(iter(gate.waiting)), 0, 0.0)
        gate.note_tokens(f"in {k}", age, 0.0)
    gate.books.fleet.memory[:10] = gate.policy.new_memory()[:10]  # nothing was estimated yet
    gate._learned_s = -inf
    gate.books.fleet.table.closed = 0
    for k, prompt in enumerate(prompts):
        gate.arrive(f"out {k}", prompt, now_s=1.0)
    return len(prompts) - len(gate.waiting)


@given(st.lists(st.integers(1, 300), max_size=12), st.lists(st.integers(1, 200), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_it_lets_in_whom_the_policy_inside_lets_in(ages: list[int], prompts: list[int]) -> None:
    """With the same residents, of the same ages, known without delay."""
    admitted, gate = inside(ages, prompts)
    assert gate._memory[COHERENCE] < 0.8
    assert outside(ages, prompts) == admitted
