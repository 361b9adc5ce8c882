"""`sglang`: a reserve for what residents may still generate, and how it is learned."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidgate.engine import RunRecords
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.kernel import interpreted
from fluidgate.policies import Event, SGLang, make_policy
from fluidgate.policies.protocol import ABORTED, ARRIVED, FINISHED, PREEMPTED
from fluidgate.testing import check_policy, small_hardware, small_workloads

Simulate = Callable[..., RunRecords]
Decide = Callable[..., int]

LEAST = 0.7 * 0.14


def _tell(policy: SGLang, memory: NDArray[np.float64], kind: int, now_s: float, arrival_s: float = 0.0) -> None:
    assert policy.observe is not None
    event = Event(
        kind, now_s, 0, arrival_s, prompt_tokens=1, generated_tokens=1, computed_tokens=0, class_id=0, policy_class=0
    )
    interpreted(policy.observe)(policy.pack(), memory, event)


def _ratio(policy: SGLang, memory: NDArray[np.float64], decide: Decide, iteration: int) -> float:
    """The ratio by which the next decision goes: memory is ample, so that only the ratio changes."""
    decide(policy, [(1, 5), (1, 7)], [(1, 0)], blocks=10**6, iteration=iteration, memory=memory)
    return float(memory[0])


def test_an_aborted_request_is_no_longer_there(decide: Decide) -> None:
    """Only an idle engine resets the ratio: that of the clients who gave up counts as idle too."""
    policy = SGLang(20.0)
    memory = policy.new_memory()
    memory[0] = LEAST
    for kind, at_s in ((ARRIVED, 0.0), (ABORTED, 1.0), (ARRIVED, 2.0)):
        _tell(policy, memory, kind, at_s, arrival_s=at_s)
    assert _ratio(policy, memory, decide, 1000) == pytest.approx(0.7)


def test_residents_reserve_a_share_of_their_remaining_output(decide: Decide) -> None:
    # 100 blocks, 14 held; 1 for the resident's next token and 0.7 · (20 - 5) = 10.5 reserved leave 74.5 tokens free.
    policy = SGLang(20.0)
    assert decide(policy, [(10, 5)], [(54, 0)], blocks=100) == 1
    assert decide(policy, [(10, 5)], [(55, 0)], blocks=100) == 0
    # an evicted request asks for its prompt, what it had generated and what may still come
    assert decide(policy, [(10, 5)], [(51, 3)], blocks=100) == 1
    assert decide(policy, [(10, 5)], [(55, 3)], blocks=100) == 0
    # a prompt that is not yet computed is charged for the rest: 40 held, 10 to come, 14 reserved, 36 free
    assert decide(policy, [(50, 0, 40)], [(15, 0)], blocks=100) == 1
    assert decide(policy, [(50, 0, 40)], [(16, 0)], blocks=100) == 0


def test_newcomers_reserve_their_whole_maximum(decide: Decide) -> None:
    # 5 + 20 tokens each of 100: the charge has to be less than what is free, so the fourth stays outside.
    assert decide(SGLang(20.0), [], [(5, 0)] * 5, blocks=100) == 3
    assert decide(SGLang(20.0), [], [(5, 0)] * 5, blocks=101) == 4
    # in blocks of 8 each of them takes 4 blocks
    assert decide(SGLang(20.0), [], [(5, 0)] * 5, blocks=12, block_size=8) == 2


def test_at_most_4096_tokens_are_reserved(decide: Decide) -> None:
    assert decide(SGLang(1e6), [], [(10, 0)] * 5, blocks=2 * 4106 + 1) == 2
    assert decide(SGLang(1e6), [], [(10, 0)] * 5, blocks=2 * 4106) == 1


def test_the_first_of_an_idle_engine_is_let_in(decide: Decide) -> None:
    assert decide(SGLang(200.0), [], [(5, 0)] * 2, blocks=10) == 1


def test_the_ratio_decays_over_600_steps(decide: Decide) -> None:
    policy = SGLang(100.0)
    memory = policy.new_memory()
    found = [_ratio(policy, memory, decide, iteration) for iteration in (7, 8, 307, 607, 5000)]
    wanted = [0.7 - (0.7 - LEAST) * steps / 600 for steps in (0, 1, 300, 600, 600)]
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(("most", "after"), [(100.0, (5 + 7 + 2 * 20) / 201), (10.0, 1.0), (1e6, LEAST)])
def test_an_eviction_sets_the_ratio_to_what_residents_have_used(decide: Decide, most: float, after: float) -> None:
    policy = SGLang(most)
    memory = policy.new_memory()
    _ratio(policy, memory, decide, 0)
    _tell(policy, memory, PREEMPTED, 1.0)
    assert _ratio(policy, memory, decide, 1) == pytest.approx(after)
    assert _ratio(policy, memory, decide, 2) == pytest.approx(max(after - (0.7 - LEAST) / 600, LEAST))


def test_an_idle_engine_starts_anew(decide: Decide) -> None:
    policy = SGLang(100.0)
    memory = policy.new_memory()
    _tell(policy, memory, ARRIVED, 0.0)
    _ratio(policy, memory, decide, 0)
    _tell(policy, memory, FINISHED, 600.0)
    _tell(policy, memory, ARRIVED, 600.0, arrival_s=599.5)  # came while the other's last step ran
    assert _ratio(policy, memory, decide, 600) == pytest.approx(LEAST)
    _tell(policy, memory, FINISHED, 601.0)
    _tell(policy, memory, ARRIVED, 602.0, arrival_s=602.0)
    assert _ratio(policy, memory, decide, 601) == pytest.approx(0.7)


@pytest.mark.parametrize(("conservativeness", "first"), [(0.0, 0.0), (1.0, 0.7), (1.2, 0.84), (5.0, 1.0)])
def test_conservativeness_scales_the_ratio(decide: Decide, conservativeness: float, first: float) -> None:
    policy = SGLang(100.0, conservativeness)
    memory = policy.new_memory()
    assert _ratio(policy, memory, decide, 0) == pytest.approx(first)
    assert _ratio(policy, memory, decide, 10_000) == pytest.approx(0.14 * first)


def test_admission_by_hand(simulate: Simulate) -> None:
    # 11 blocks, each asks for 2 + 4. At 0 row 1 finds 5 tokens; at 1 it finds 11 - 2 - 1, of which row 0 reserves
    # nothing, or 0.7 · 3 = 2.1 and it lacks 0.1; later row 0 holds more, until it ends at 4.
    requests = [(0.0, 2, 4), (0.0, 2, 4)]
    assert simulate(SGLang(4.0, 0.0), requests, blocks=11).first_scheduled_s.tolist() == [0.0, 1.0]
    assert simulate(SGLang(4.0), requests, blocks=11).first_scheduled_s.tolist() == [0.0, 4.0]


def test_a_bold_ratio_evicts_where_the_default_waits(simulate: Simulate) -> None:
    # 12 blocks, each asks for 2 + 6. At 1 row 1 finds 12 - 2 - 1 and enters if nothing is reserved: KV 3 + 2, 6 + 5.
    # At 5 both need a block, one is left, and row 1 has to go until row 0 ends at 6.
    requests = [(0.0, 2, 6), (0.0, 2, 6)]
    bold, default = (simulate(SGLang(6.0, c), requests, blocks=12) for c in (0.0, 1.0))
    assert (bold.first_scheduled_s.tolist(), bold.preemptions.tolist()) == ([0.0, 1.0], [0, 1])
    assert (default.first_scheduled_s.tolist(), default.preemptions.tolist()) == ([0.0, 6.0], [0, 0])


def test_takes_its_parameters_from_the_plan() -> None:
    overload = next(w for w in small_workloads() if w.name == "overload")
    policy = make_policy("sglang", plan(overload, small_hardware()))
    assert policy == SGLang(float(overload.output_tokens.max()), conservativeness=1.0)


@pytest.mark.parametrize(("most", "conservativeness"), [(1.0, 0.0), (1.0, 10.0), (1e6, 1.0)])
def test_conforms_at_its_extremes(most: float, conservativeness: float) -> None:
    check_policy(SGLang(most, conservativeness))


@pytest.mark.parametrize(
    ("most", "conservativeness", "named"),
    [
        (0.0, 1.0, "max_output_tokens"),
        (np.nan, 1.0, "max_output_tokens"),
        (np.inf, 1.0, "max_output_tokens"),
        (9.0, -0.1, "conservativeness"),
        (9.0, np.nan, "conservativeness"),
        (9.0, np.inf, "conservativeness"),
    ],
)
def test_refuses_what_is_out_of_range(most: float, conservativeness: float, named: str) -> None:
    with pytest.raises(InputError, match=f"policy sglang: {named} = .* must be at least"):
        SGLang(most, conservativeness)
