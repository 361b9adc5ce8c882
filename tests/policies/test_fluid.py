"""`fluid`, one decision at a time: who enters by the forecast, worked by hand and by the formula."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.fluid.stability import COHERENT
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Event, Fluid
from fluidgate.policies.parts import fluid_memory
from fluidgate.policies.parts.fluid_walk import MAX_TRIED, RESUME
from fluidgate.policies.parts.length_law import MEMORY, OUTPUT, TIMES, new_law
from fluidgate.policies.parts.margin import FIRST_MARGIN, LAX_RESERVE, MARGIN, RESERVE
from fluidgate.policies.protocol import FINISHED
from fluidgate.workload import Workload

from .laws import Floats, horizon, observe_residents, survival

Decide = Callable[..., int]

DISPERSED = tuple(float(length) for length in np.geomspace(4, 300, 16).round())
observe = interpreted(Fluid.observe)


def fluid_policy(*quantiles: float, prompt: float = 10.0) -> Fluid:
    return Fluid(0.1, (1.0,), (prompt,), quantiles)


def memory_with(policy: Fluid, margin: float) -> Floats:
    memory = policy.new_memory()
    memory[fluid_memory.LOOP + MARGIN] = margin
    return memory


def formula(
    policy: Fluid,
    residents: list[tuple[int, int]],
    waiting: list[tuple[int, int]],
    *,
    capacity: int,
    margin: float,
    rounding: float = 0.0,
) -> int:
    """How many may enter (theory §2.5): μ(τ) + m·σ(τ) ≤ (1 - r)·C on a grid of times that lie densest early.

    At the first time a margin below 0 counts as 0. The age of a request is known to within its cell, and taken for the
    cell's middle.
    """
    law = new_law(1.0, policy.prompt_tokens[0], np.array(policy.output_quantiles))
    observe_residents(law, [age for _, age in residents])
    times = np.floor(horizon(law, 0) * (np.arange(1, TIMES + 1) / TIMES) ** 2) + 1

    mean_held = law[MEMORY] / law[OUTPUT]

    def moments(prompt: int, age: int) -> tuple[Floats, Floats]:
        middle = (np.floor(age / law[0]) + 0.5) * law[0]
        p = np.array([survival(law, 0, middle + t) for t in times]) / survival(law, 0, middle)
        held = prompt + age + rounding + times
        return held * p, held**2 * p * (1 - p)

    inside = [moments(*request) for request in residents]
    entered = 0
    for prompt, age in waiting:
        m = margin * (min(1.0, RESUME * (prompt + age) / mean_held) if age > 0 else 1.0)
        inside.append(moments(prompt, age))
        mean, variance = (sum(part) for part in zip(*inside, strict=True))
        above = np.where(np.arange(TIMES) == 0, max(m, 0.0), m) * np.sqrt(variance)
        reserve = max(RESERVE * m, LAX_RESERVE * min(1.0, policy.evicted_share))
        if len(inside) > 1 and (mean + above).max() > (1 - reserve) * capacity:
            break
        entered += 1
    return entered


def test_as_many_enter_as_fit_at_their_ends(decide: Decide) -> None:
    # 100 + 100 tokens each, with certainty; a margin of 0 leaves the mean: four hold 800 at their ends, five 1000.
    policy = fluid_policy(100.0, prompt=100.0)
    memory = memory_with(policy, 0.0)
    residents = [(100, 0)] * 3
    assert decide(policy, residents, [(100, 0)], blocks=900, memory=memory.copy()) == 1
    assert decide(policy, [*residents, (100, 0)], [(100, 0)], blocks=900, memory=memory.copy()) == 0
    assert decide(policy, [*residents, (100, 0)], [(100, 0)], blocks=1100, memory=memory.copy()) == 1


def test_those_that_end_in_time_make_room(decide: Decide) -> None:
    # Outputs of 100: four residents at 90 tokens end with 800 KV tokens when a newcomer holds 100 + 10. Those at 40
    # tokens hold 4·193 in 53 iterations, beside 153 of the newcomer.
    policy = fluid_policy(100.0, prompt=100.0)
    memory = memory_with(policy, 0.0)
    old, young = [(100, 90)] * 4, [(100, 40)] * 4
    assert decide(policy, old, [(100, 0)], blocks=905, memory=memory.copy()) == 1
    assert decide(policy, young, [(100, 0)], blocks=905, memory=memory.copy()) == 0


REQUESTS = st.tuples(st.integers(1, 120), st.integers(0, 250))


@settings(max_examples=50)
@given(
    st.lists(REQUESTS, max_size=8),
    st.lists(st.tuples(st.integers(1, 120), st.sampled_from([0, 0, 0, 60])), min_size=1, max_size=6),
    st.integers(400, 3000),
    st.sampled_from([-1.5, 0.0, 0.7, FIRST_MARGIN]),
    st.sampled_from([0.1, 0.8, 3.0]),
)
def test_the_decision_is_the_formula(
    decide: Decide,
    residents: list[tuple[int, int]],
    waiting: list[tuple[int, int]],
    capacity: int,
    margin: float,
    evicted_share: float,
) -> None:
    policy = replace(fluid_policy(*DISPERSED), evicted_share=evicted_share)
    memory = memory_with(policy, margin)
    entered = decide(policy, residents, waiting, blocks=capacity, memory=memory)
    assert memory[fluid_memory.COHERENCE] < COHERENT
    assert entered == formula(policy, residents, waiting, capacity=capacity, margin=margin)


def test_blocks_are_half_empty_at_their_ends(decide: Decide) -> None:
    policy = fluid_policy(*DISPERSED)
    residents, waiting = [(40, 10)] * 4, [(40, 0)] * 8
    for blocks in range(60, 140, 5):
        expected = formula(policy, residents, waiting, capacity=16 * blocks, margin=FIRST_MARGIN, rounding=7.5)
        assert decide(policy, residents, waiting, blocks=blocks, block_size=16) == expected


def test_the_first_margin_is_kept(decide: Decide) -> None:
    policy = fluid_policy(*DISPERSED)
    for capacity in range(600, 1600, 50):
        expected = formula(policy, [(40, 10)] * 4, [(40, 0)] * 8, capacity=capacity, margin=FIRST_MARGIN)
        assert decide(policy, [(40, 10)] * 4, [(40, 0)] * 8, blocks=capacity) == expected


def room_needed(decide: Decide, residents: list[tuple[int, int]], request: tuple[int, int]) -> int:
    """The least capacity, in steps of 10 tokens, on which a request enters beside residents; the formula agrees."""
    policy = fluid_policy(*DISPERSED)

    def enters(capacity: int) -> bool:
        entered = decide(policy, residents, [request], blocks=capacity)
        assert entered == formula(policy, residents, [request], capacity=capacity, margin=FIRST_MARGIN)
        return entered == 1

    capacities = range(300, 3000, 10)
    return capacities[bisect_left(capacities, True, key=enters)]


def test_a_small_request_that_was_evicted_comes_back_at_a_smaller_margin(decide: Decide) -> None:
    residents = [(40, 10)] * 4
    new, back = room_needed(decide, residents, (41, 0)), room_needed(decide, residents, (40, 1))
    large = room_needed(decide, residents, (400, 1))
    assert back < new
    assert large >= room_needed(decide, residents, (401, 0)) - 10


@pytest.mark.parametrize("quantiles", [(1000.0,), DISPERSED, ()], ids=["too long", "dispersed", "unknown"])
def test_an_empty_engine_takes_one_whatever_the_forecast(decide: Decide, quantiles: tuple[float, ...]) -> None:
    policy = fluid_policy(*quantiles, prompt=1000.0)
    assert decide(policy, [], [(90, 0)] * 3, blocks=100) == 1
    assert decide(policy, [(5, 1)], [(90, 0)] * 3, blocks=100) == 0


def test_it_looks_no_further_than_it_must(decide: Decide) -> None:
    # Two prompts of 60 reach a budget of 100, and the rest are the engine's to refuse; the forecast goes on for a
    # while, to see whether all fit.
    policy = fluid_policy(*DISPERSED)
    assert decide(policy, [], [(60, 0)] * 5, blocks=10**6, token_budget=100) == 5
    assert decide(policy, [], [(60, 0)] * 100, blocks=10**6, token_budget=100) == MAX_TRIED
    assert decide(policy, [], [(60, 0)] * 100, blocks=10**6, token_budget=6000) == 100
    assert decide(policy, [(60, 9)] * 2, [(60, 0)] * 5, blocks=2000, max_num_seqs=5) == 3


def test_where_nothing_could_go_wrong_all_may_enter(decide: Decide) -> None:
    # None of seven is expected to exceed the law's horizon, 512 tokens: 7·(60 + 512) and a margin of half that spread.
    policy = fluid_policy(*DISPERSED)
    assert decide(policy, [(60, 9)] * 2, [(60, 0)] * 5, blocks=10**4, max_num_seqs=5) == 5


def test_a_shared_prefix_is_counted_once(decide: Decide) -> None:
    # Two residents with prompts of 100, 80 of them in common, hold 120 blocks for these: the newcomer may expect to
    # share as well, and three need 180 + 3·10 at most, where apart they need 300 + 30.
    policy = fluid_policy(10.0, prompt=100.0)
    memory = memory_with(policy, 0.0)
    residents = [(100, 1)] * 2
    assert decide(policy, residents, [(100, 0)], blocks=250, memory=memory.copy()) == 0
    assert decide(policy, residents, [(100, 0)], blocks=250, shared_blocks=80, memory=memory.copy()) == 1
    assert decide(policy, residents, [(100, 0)], blocks=200, shared_blocks=80, memory=memory.copy()) == 0


def test_who_was_refused_is_not_asked_again_until_something_ends(decide: Decide) -> None:
    policy = fluid_policy(*DISPERSED)
    memory = policy.new_memory()
    assert decide(policy, [(100, 5)], [(500, 0)], blocks=600, memory=memory) == 0
    assert decide(policy, [(100, 5)], [(500, 0)], blocks=6000, memory=memory, iteration=1) == 0
    observe(policy.pack(), memory, Event(FINISHED, 1.0, 7, 0.0, 10, 20, 29, 0, 0))
    assert decide(policy, [(100, 5)], [(500, 0)], blocks=6000, memory=memory, iteration=2) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"evicted_share": 4.1}, "evicted_share = 4.1 must be from 0 to 4"),
        ({"evicted_share": -0.1}, "evicted_share = -0.1 must be"),
        ({"evicted_share": np.nan}, "evicted_share = nan must be"),
        ({"shares": ()}, "shares must name at least one class"),
        ({"prompt_tokens": (5.0, 6.0)}, "needs one prompt length per class"),
        ({"shares": (0.5, 0.5), "prompt_tokens": (5.0, 6.0), "output_quantiles": (1.0,)}, "equally many output"),
        ({"shares": (0.0,)}, "must be above 0 and finite"),
        ({"shares": (np.inf,)}, "must be above 0 and finite"),
        ({"prompt_tokens": (0.5,)}, "lengths must be at least 1 token, and finite"),
        ({"output_quantiles": (3.0, np.nan)}, "lengths must be at least 1 token, and finite"),
        ({"output_quantiles": (np.inf,)}, "lengths must be at least 1 token, and finite"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_parameters_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=f"policy fluid: .*{sentence}"):
        Fluid(**change)  # type: ignore[arg-type]


def test_a_plan_gives_the_prior() -> None:
    workload = Workload(
        np.arange(6.0),
        np.array([10, 20, 30, 40, 50, 60]),
        np.array([5, 5, 5, 9, 9, 9]),
        class_id=np.array([0, 0, 0, 0, 1, 1]),
        class_names=("chat", "code"),
    )
    planned = plan(workload, Hardware("small", StepTime(0.01, 1e-5), 1000))
    policy = Fluid.from_plan(planned, evicted_share=0.3)
    chat, code = planned.mix.classes
    assert (policy.evicted_share, policy.num_classes) == (0.3, 2)
    assert policy.shares == pytest.approx((4 / 6, 2 / 6))
    assert policy.prompt_tokens == (25.0, 55.0)
    assert policy.output_quantiles == (*chat.output_quantiles, *code.output_quantiles)
    assert set(code.output_quantiles) == {9}
