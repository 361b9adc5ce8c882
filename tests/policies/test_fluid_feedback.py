"""What `fluid` learns from events: its margin in closed loop, lengths, shares, and nothing from who was aborted."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.fluid.stability import COHERENT
from fluidgate.kernel import interpreted
from fluidgate.policies import Event, Fluid
from fluidgate.policies.parts import fluid_memory
from fluidgate.policies.parts.length_law import DEATHS, MEANS_WINDOW, PRIOR, SEEN, SHARE
from fluidgate.policies.parts.margin import (
    CHEAP_MARGIN,
    COMPLETED,
    FIRST_MARGIN,
    GAIN,
    HELD,
    LAX_FALL,
    LAX_MARGIN,
    MARGIN,
    MAX_MARGIN,
    MIN_MARGIN,
    RECOMPUTED,
    SPREAD,
    START_COMPLETIONS,
)
from fluidgate.policies.protocol import ABORTED, ADMITTED, ARRIVED, FINISHED, PREEMPTED
from fluidgate.serving.gate import Entry, Gate, Limits, Room, Standing

from .laws import Floats

Decide = Callable[..., int]

SPREADS = st.floats(0.0, 0.5)
observe = interpreted(Fluid.observe)


def tell(
    policy: Fluid, memory: Floats, kind: int, *, generated: int = 20, computed: int = 0, class_id: int = 0
) -> None:
    """One event of a request with a prompt of 10 tokens."""
    observe(policy.pack(), memory, Event(kind, 0.0, 3, 0.0, 10, generated, computed, class_id, class_id))


def finish_held(policy: Fluid, memory: Floats) -> float:
    """A completion while the queue is held; returns by how much the margin falls."""
    before = memory[fluid_memory.LOOP + MARGIN]
    memory[fluid_memory.LOOP + HELD] = 1.0
    tell(policy, memory, FINISHED)
    return float(before - memory[fluid_memory.LOOP + MARGIN])


def margin_after_many(evicted_share: float, spread: float, *, recomputed: float = 1.0, coherence: float = 0.0) -> float:
    """Where the margin ends when nothing is ever evicted."""
    policy = Fluid(evicted_share)
    memory = policy.new_memory()
    memory[[fluid_memory.LOOP + SPREAD, fluid_memory.LOOP + RECOMPUTED, fluid_memory.COHERENCE]] = (
        spread,
        recomputed,
        coherence,
    )
    memory[fluid_memory.LOOP + COMPLETED] = START_COMPLETIONS
    memory[fluid_memory.LOOP + MARGIN] = MAX_MARGIN
    for _ in range(int(2 * MAX_MARGIN / (GAIN * evicted_share)) + 10):
        finish_held(policy, memory)
    return float(memory[fluid_memory.LOOP + MARGIN])


def test_evictions_raise_the_margin_to_its_most() -> None:
    policy = Fluid(output_quantiles=(20.0,))
    memory = policy.new_memory()
    assert memory[fluid_memory.LOOP + MARGIN] == FIRST_MARGIN
    tell(policy, memory, PREEMPTED)
    assert memory[fluid_memory.LOOP + MARGIN] == pytest.approx(FIRST_MARGIN + GAIN)
    for _ in range(int(MAX_MARGIN / GAIN)):
        tell(policy, memory, PREEMPTED)
    assert memory[fluid_memory.LOOP + MARGIN] == MAX_MARGIN


@pytest.mark.parametrize("evicted_share", [0.0, 0.1, 0.7])
def test_held_completions_lower_it_by_the_share(evicted_share: float) -> None:
    """So that it rests where one completion in 1/share has been evicted."""
    policy = Fluid(evicted_share)
    memory = policy.new_memory()
    memory[fluid_memory.LOOP + MARGIN] = 3.0
    tell(policy, memory, FINISHED)
    assert memory[fluid_memory.LOOP + MARGIN] == 3.0  # nobody was held
    assert finish_held(policy, memory) == pytest.approx(GAIN * evicted_share)
    tell(policy, memory, FINISHED)
    assert memory[fluid_memory.LOOP + MARGIN] == pytest.approx(3.0 - GAIN * evicted_share)  # held, but not since


@given(SPREADS, SPREADS)
def test_the_floor_falls_with_what_a_margin_costs(less: float, more: float) -> None:
    less, more = sorted((less, more))
    floors = [margin_after_many(0.5, spread) for spread in (less, more)]
    assert LAX_MARGIN <= floors[1] <= floors[0] <= CHEAP_MARGIN


def test_floors_at_the_ends() -> None:
    # A free margin is taken up to CHEAP_MARGIN, a costly one to MIN_MARGIN, or LAX_MARGIN where nothing is computed
    # again; at one eviction per request all of them are LAX_MARGIN, at 1/2 halfway, and beyond they fall on.
    assert margin_after_many(0.5, 0.0) == pytest.approx((CHEAP_MARGIN + LAX_MARGIN) / 2)
    assert margin_after_many(0.5, 10.0) == pytest.approx((MIN_MARGIN + LAX_MARGIN) / 2)
    assert margin_after_many(0.5, 10.0, recomputed=0.0) == pytest.approx(LAX_MARGIN)
    assert margin_after_many(1.0, 0.0) == pytest.approx(LAX_MARGIN)
    assert margin_after_many(3.0, 0.0) == pytest.approx(LAX_MARGIN - 2 * LAX_FALL)
    assert margin_after_many(0.5, 0.0, coherence=COHERENT) == 0.0


def test_a_margin_below_the_floor_is_left_alone() -> None:
    policy = Fluid(0.5)
    memory = policy.new_memory()
    memory[fluid_memory.LOOP + MARGIN] = 0.25
    assert finish_held(policy, memory) == 0.0


def test_what_an_eviction_costs_is_learned_from_returns() -> None:
    policy = Fluid()
    memory = policy.new_memory()
    tell(policy, memory, ADMITTED, generated=0, computed=10)  # a first admission says nothing
    assert memory[fluid_memory.LOOP + RECOMPUTED] == 1.0
    for _ in range(200):
        tell(policy, memory, ADMITTED, generated=20, computed=24)  # of 30 tokens
    assert memory[fluid_memory.LOOP + RECOMPUTED] == pytest.approx(0.2, abs=0.01)


def test_shares_follow_arrivals() -> None:
    policy = Fluid(0.1, (0.5, 0.5), (10.0, 10.0))
    memory = policy.new_memory()
    laws = [fluid_memory.CLASSES, fluid_memory.CLASSES + fluid_memory.CLASS_SIZE]
    for k in range(int(3 * MEANS_WINDOW)):
        tell(policy, memory, ARRIVED, class_id=int(k % 4 == 0))
    shares = [memory[law + SHARE] for law in laws]
    assert shares == pytest.approx([0.75, 0.25], abs=0.03)
    assert sum(shares) == pytest.approx(1.0)


def test_classes_learn_apart_and_unknown_labels_share_the_last() -> None:
    policy = Fluid(0.1, (0.5, 0.5), (10.0, 10.0))
    memory = policy.new_memory()
    for class_id in (0, 1, 1, 5):
        tell(policy, memory, FINISHED, class_id=class_id)
    assert [memory[fluid_memory.CLASSES + c * fluid_memory.CLASS_SIZE + SEEN] for c in (0, 1)] == [1.0, 3.0]


def test_an_admission_costs_its_class_a_credit() -> None:
    policy = Fluid(0.1, (0.5, 0.5), (10.0, 10.0))
    memory = policy.new_memory()
    credits = [fluid_memory.CLASSES + c * fluid_memory.CLASS_SIZE + fluid_memory.CREDIT for c in (0, 1)]
    memory[credits] = 1.5
    tell(policy, memory, ADMITTED, generated=0, class_id=1)
    assert memory[credits].tolist() == [1.5, 0.5]
    tell(policy, memory, ADMITTED, generated=0, class_id=1)
    assert memory[credits].tolist() == [1.5, 0.0]


def learned(memory: Floats) -> Floats:
    """Counts of completions by length, and their number."""
    law = fluid_memory.CLASSES
    return np.append(memory[law + DEATHS : law + PRIOR], memory[law + SEEN])


def test_an_aborted_request_teaches_no_length() -> None:
    policy = Fluid()
    memory = policy.new_memory()
    before = memory.copy()
    memory[fluid_memory.LOOP + HELD] = 1.0
    tell(policy, memory, ABORTED)
    assert learned(memory).tolist() == learned(before).tolist()
    assert memory[fluid_memory.LOOP + MARGIN] == before[fluid_memory.LOOP + MARGIN]


@pytest.mark.parametrize("aborted", [False, True])
def test_a_live_gate_tells_who_was_aborted(aborted: bool) -> None:
    """Either way memory is free again: who was refused is asked again."""
    # Outputs are evenly 5 to 35: each holds 25 on average when the first end, a little more later; three hold 75 of 65.
    gate = Gate(Fluid(0.1, (1.0,), (20.0,), tuple(np.arange(5.0, 36.0))), Limits(65, 1, 2048, 256))
    gate._memory[fluid_memory.LOOP + MARGIN] = 0.0
    for name in ("a", "b", "c"):
        gate.joined(Standing(name, 20, 30, 0), 1.0)
    assert gate.decide(1.0, Room(65)).admit == 2
    gate.book(1.0, {"a": 20, "b": 20}, {"a": Entry(0, 0), "b": Entry(0, 0)})
    assert gate.decide(2.0, Room(25)).admit == 0
    before = learned(gate._memory)
    gate.left(["b"], 3.0, aborted=["b"] if aborted else [])
    assert gate.decide(3.0, Room(45)).admit is None
    assert (learned(gate._memory) - before).sum() == (0.0 if aborted else 2.0)  # a length, and the number of them


def test_without_a_prior_there_is_no_margin_until_evictions_ask_for_one() -> None:
    """Each further eviction without a completion between asks louder, up to where a policy with a prior begins."""
    policy = Fluid()
    memory = policy.new_memory()
    margins = [memory[fluid_memory.LOOP + MARGIN]]
    for _ in range(40):
        tell(policy, memory, PREEMPTED)
        margins.append(memory[fluid_memory.LOOP + MARGIN])
    rises = np.diff(margins)
    assert margins[0] == 0.0
    assert rises[0] >= GAIN
    assert (np.diff(rises[:10]) > 0).all()
    assert max(margins) == margins[-1] == FIRST_MARGIN


def test_an_eviction_after_a_completion_asks_softly_again() -> None:
    policy = Fluid()
    memory = policy.new_memory()
    for _ in range(5):
        tell(policy, memory, PREEMPTED)
    tell(policy, memory, FINISHED)
    before = memory[fluid_memory.LOOP + MARGIN]
    tell(policy, memory, PREEMPTED)
    assert memory[fluid_memory.LOOP + MARGIN] - before == pytest.approx(GAIN, rel=0.6)


def test_when_the_start_is_over_the_floor_holds_and_the_loop_is_that_with_a_prior() -> None:
    policies = Fluid(0.5), Fluid(0.5, output_quantiles=(20.0,))
    memories = [policy.new_memory() for policy in policies]
    memories[0][fluid_memory.LOOP + COMPLETED] = START_COMPLETIONS - 2
    assert finish_held(policies[0], memories[0]) < -0.9 * (MIN_MARGIN + LAX_MARGIN) / 2
    for policy, memory in zip(policies, memories, strict=True):
        tell(policy, memory, FINISHED)
        memory[fluid_memory.LOOP + MARGIN] = 3.0
        tell(policy, memory, PREEMPTED)
        assert memory[fluid_memory.LOOP + MARGIN] == pytest.approx(3.0 + GAIN)
        assert finish_held(policy, memory) == pytest.approx(GAIN * 0.5)
