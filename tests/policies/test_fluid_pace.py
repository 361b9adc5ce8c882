"""What `fluid` derives from the laws it has learned, when, and what each class may do with its credits."""

from collections.abc import Callable

import numpy as np
import pytest

from fluidgate.fluid import RequestMix, plan
from fluidgate.fluid.stability import coherence
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Event, Fluid
from fluidgate.policies.parts import fluid_memory
from fluidgate.policies.parts.fluid_laws import (
    COHERENCE_COMPLETIONS,
    ESTIMATE_COMPLETIONS,
    ESTIMATE_ITERATIONS,
    MIN_WINDOW,
    WINDOWS,
)
from fluidgate.policies.parts.length_law import CELLS, DEATHS, OUTPUT, PRIOR, SHARE, WIDTH
from fluidgate.policies.parts.margin import SPREAD
from fluidgate.policies.protocol import FINISHED

from .laws import Floats

Decide = Callable[..., int]

CREDIT = fluid_memory.CLASSES + fluid_memory.CREDIT
observe = interpreted(Fluid.observe)


def fluid_policy(*quantiles: float, prompt: float = 10.0) -> Fluid:
    return Fluid(0.1, (1.0,), (prompt,), quantiles)


def finish(policy: Fluid, memory: Floats, output_tokens: int, *, times: int = 1, prompt: int = 10) -> None:
    for _ in range(times):
        observe(policy.pack(), memory, Event(FINISHED, 0.0, 0, 0.0, prompt, output_tokens, 10, 0, 0))


LAWS = {
    "one length": ([100], [1.0]),
    "three lengths": ([100, 200, 300], [0.4, 0.3, 0.3]),
    "two apart": ([20, 250], [0.7, 0.3]),
    "uniform": (list(range(1, 301)), [1 / 300] * 300),
    "geometric": (list(range(1, 400)), (0.98 ** np.arange(399) / (0.98 ** np.arange(399)).sum()).tolist()),
    "around 200": (list(range(190, 211)), [1 / 21] * 21),
}


@pytest.mark.parametrize("name", LAWS)
def test_coherence_is_the_planners(name: str, decide: Decide) -> None:
    lengths, weights = LAWS[name]
    mix = RequestMix(np.array(weights), np.full(len(lengths), 10), np.array(lengths))
    policy = fluid_policy(50.0)
    memory = policy.new_memory()
    for length in np.repeat(lengths, np.round(20 * COHERENCE_COMPLETIONS * np.array(weights)).astype(int)):
        finish(policy, memory, int(length))
    memory[fluid_memory.COMPLETIONS] = 0.0  # as if learned one by one: none has faded
    decide(policy, [(10, 1)], [(10, 0)], blocks=1000, memory=memory)
    assert memory[fluid_memory.COHERENCE] == pytest.approx(coherence(mix), abs=0.05)


@pytest.mark.parametrize(
    ("limit", "settings"),
    [
        ("memory", {"blocks": 3000}),
        ("token budget", {"blocks": 10**6, "token_budget": 64}),
        ("seats", {"blocks": 10**6, "max_num_seqs": 5}),
    ],
)
@pytest.mark.parametrize("block_size", [1, 16])
def test_the_pace_is_the_planners(limit: str, settings: dict[str, int], block_size: int, decide: Decide) -> None:
    """x* for outputs of 100 and prompts of 60, as near as one part in a hundred: half a token of each output."""
    blocks = settings["blocks"] // block_size
    planned = plan(
        RequestMix([1.0], [60], [100]),
        Hardware("small", StepTime(0.01, 1e-5), blocks + 1, block_size),
        max_num_batched_tokens=settings.get("token_budget", 2048),
        max_num_seqs=settings.get("max_num_seqs", 256),
    )
    assert planned.stability.limit == limit
    policy = fluid_policy(100.0, prompt=60.0)
    memory = policy.new_memory()
    finish(policy, memory, 100, times=2000, prompt=60)
    memory[fluid_memory.COMPLETIONS] = 0.0
    decide(policy, [(60, 1)], [(60, 0)], **(settings | {"blocks": blocks}), block_size=block_size, memory=memory)
    assert memory[fluid_memory.PACE] == pytest.approx(planned.rate_limit, rel=0.01)


def test_laws_are_estimated_when_they_are_due(decide: Decide) -> None:
    policy = fluid_policy(50.0)
    memory = policy.new_memory()

    def estimated_at(iteration: int) -> float:
        decide(policy, [(10, 5)], [(10, 0)], blocks=1000, memory=memory, iteration=iteration)
        return float(memory[fluid_memory.ESTIMATED])

    assert estimated_at(5) == 5
    finish(policy, memory, 50, times=ESTIMATE_COMPLETIONS - 1)
    assert estimated_at(6) == 5
    finish(policy, memory, 50)
    assert estimated_at(7) == 7
    assert memory[fluid_memory.COMPLETIONS] == 0.0
    assert estimated_at(6 + ESTIMATE_ITERATIONS) == 7
    assert estimated_at(7 + ESTIMATE_ITERATIONS) == 7 + ESTIMATE_ITERATIONS


def test_the_coherence_follows_a_change_of_lengths(decide: Decide) -> None:
    policy = fluid_policy(50.0)
    memory = policy.new_memory()
    decide(policy, [], [(10, 0)], blocks=1000, memory=memory)
    assert memory[fluid_memory.COHERENCE] > 0.9
    for k in range(COHERENCE_COMPLETIONS):
        finish(policy, memory, 1 + 37 * k % 100)
    memory[fluid_memory.COMPLETIONS] = ESTIMATE_COMPLETIONS
    decide(policy, [], [(10, 0)], blocks=1000, memory=memory, iteration=1)
    assert memory[fluid_memory.COHERENCE] < 0.4


@pytest.mark.parametrize("residents", [3, 90])
def test_completions_are_remembered_for_a_window(residents: int, decide: Decide) -> None:
    policy = fluid_policy(50.0)
    memory = policy.new_memory()
    finish(policy, memory, 50, times=40)
    decide(policy, [(10, 5)] * residents, [(10, 0)], blocks=10**5, memory=memory)
    law = fluid_memory.CLASSES
    window = max(MIN_WINDOW, WINDOWS * residents)
    assert memory[law + DEATHS : law + PRIOR].sum() == pytest.approx(40 * np.exp(-40 / window), rel=0.001)


def test_residents_teach_the_law_of_their_class(decide: Decide) -> None:
    policy = Fluid(0.1, (0.5, 0.5), (10.0, 10.0), (50.0, 50.0))
    memory = policy.new_memory()
    laws = [fluid_memory.CLASSES, fluid_memory.CLASSES + fluid_memory.CLASS_SIZE]
    decide(policy, [(10, 3 * CELLS)] * 9, [(10, 0)], blocks=10**5, memory=memory, class_id=1)
    assert [memory[law + WIDTH] for law in laws] == [1.0, 4.0]
    output = [memory[law + OUTPUT] for law in laws]
    assert output[1] > 5 * output[0]


def credit_after(decide: Decide, iterations: int, *quantiles: float, residents: int = 0, share: float = 1.0) -> float:
    """The credit after a first decision and one so many iterations later, nobody entering; memory for 20 at most."""
    policy = fluid_policy(*quantiles)
    memory = policy.new_memory()
    settings = {"blocks": 1200, "memory": memory}
    decide(policy, [(10, 5)] * residents, [(10, 0)] * 99, **settings)
    memory[CREDIT], memory[fluid_memory.CLASSES + SHARE] = 0.0, share
    memory[fluid_memory.COHERENCE], memory[fluid_memory.PACE] = 1.0, 0.25
    decide(policy, [(10, 5)] * residents, [(10, 0)] * 99, **settings, iteration=iterations)
    return float(memory[CREDIT])


def test_credits_accrue_at_the_pace_up_to_a_limit(decide: Decide) -> None:
    assert credit_after(decide, 4, 50.0) == pytest.approx(1.0)
    assert credit_after(decide, 4, 50.0, share=0.5) == pytest.approx(0.5)
    assert credit_after(decide, 10**6, 50.0) == pytest.approx(2.0)
    spread_out = [float(length) for length in range(1, 200)]
    assert credit_after(decide, 10**6, *spread_out, residents=16) > 4.0


def test_an_empty_engine_takes_one_without_credit(decide: Decide) -> None:
    policy = fluid_policy(50.0)
    memory = policy.new_memory()
    memory[CREDIT] = 0.0
    assert decide(policy, [], [(10, 0)] * 99, blocks=1000, memory=memory) == 1
    assert decide(policy, [(10, 1)], [(10, 0)] * 99, blocks=1000, memory=memory) == 0


def test_several_credits_let_several_in(decide: Decide) -> None:
    policy = fluid_policy(50.0)
    memory = policy.new_memory()
    memory[CREDIT] = 2.0
    assert decide(policy, [(10, 1)] * 3, [(10, 0)] * 99, blocks=1000, memory=memory) == 2


def test_a_refusal_tells_the_spread_of_memory(decide: Decide) -> None:
    """Ten times the memory holds ten times the requests, and spreads by a share that is √10 times smaller."""
    spreads = []
    for residents, blocks in ((4, 600), (40, 6000)):
        policy = fluid_policy(*range(1, 200))
        memory = policy.new_memory()
        decide(policy, [(10, 5)] * residents, [(10, 0)] * 99, blocks=blocks, memory=memory)
        spreads.append(memory[fluid_memory.LOOP + SPREAD])
    assert 0.02 < spreads[1] < spreads[0] < 0.5
    assert spreads[0] / spreads[1] == pytest.approx(np.sqrt(10), rel=0.35)
