"""`expected-completions`: admit while memory is expected to turn over."""

from collections.abc import Callable

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.policies import ExpectedCompletions, Policy, make_policy
from fluidgate.testing import check_policy, small_hardware, small_workloads

Simulate = Callable[..., RunRecords]
Decide = Callable[..., int]


@pytest.mark.parametrize(
    ("gamma", "blocks", "second_s"),
    [
        # At t row 0 holds t tokens and row 1's prompt takes one; the b - t - 1 blocks that are left last for half as
        # many iterations: for 3 at t = 1 of 9 blocks, when row 0 has 3 to go; never long enough with 5 blocks.
        (1.0, 5, 4.0),
        (1.0, 9, 1.0),
        (2.0, 9, 4.0),
        (2.0, 10, 0.0),  # four iterations: both will have ended
        (0.0, 5, 0.0),
        (7.0, 10, 0.0),  # nobody is left to overflow memory, however many gamma asks for
        (7.0, 9, 4.0),
    ],
)
def test_counts_the_ends_before_memory_is_full(simulate: Simulate, gamma: float, blocks: int, second_s: float) -> None:
    r = simulate(ExpectedCompletions(gamma, (4.0,)), [(0.0, 1, 4), (0.0, 1, 4)], blocks=blocks)
    assert r.first_scheduled_s.tolist() == [0.0, second_s]


@pytest.mark.parametrize(("gamma", "second_s"), [(1.0, 0.0), (1.01, 6.0)])
def test_ends_are_weighed_by_their_probability(simulate: Simulate, gamma: float, second_s: float) -> None:
    # 7 blocks, outputs of 2 or 6: two requests have 5 blocks left, enough for two iterations, in which each ends with
    # probability 1/2. Later there is less room, and from an age of 2 on row 0 is known to be a long one.
    r = simulate(ExpectedCompletions(gamma, (2.0, 6.0)), [(0.0, 1, 6), (0.0, 1, 6)], blocks=7)
    assert r.first_scheduled_s.tolist() == [0.0, second_s]


def test_who_outlives_the_law_counts_as_about_to_end(simulate: Simulate) -> None:
    # 5 blocks: from an age of 2 on, row 0 counts as one end.
    r = simulate(ExpectedCompletions(1.0, (2.0,)), [(0.0, 1, 5), (2.0, 1, 1)], blocks=5)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]


def test_the_rest_of_a_prompt_takes_its_blocks(simulate: Simulate) -> None:
    # 8 blocks, budget 4. At 1 row 0 has 4 of its 6 tokens; with the rest and row 1's 2 there is no room for one more
    # iteration, so nobody is sure to end.
    config = EngineConfig(max_num_batched_tokens=4)
    requests = [(0.0, 6, 1), (0.0, 2, 1)]
    r = simulate(ExpectedCompletions(1.0, (1.0,)), requests, blocks=8, config=config)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]
    r = simulate(ExpectedCompletions(1.0, (1.0,)), requests, blocks=10, config=config)
    assert r.first_scheduled_s.tolist() == [0.0, 1.0]


def test_counts_whole_blocks(decide: Decide) -> None:
    # 4 tokens per block, all with 4 to generate: beside the resident's block and the newcomer's, two blocks last two
    # requests for four iterations, one block for two; the resident has three to go.
    policy = ExpectedCompletions(1.0, (4.0,))
    assert decide(policy, [(4, 1)], [(4, 0)], blocks=4, block_size=4) == 1
    assert decide(policy, [(4, 1)], [(4, 0)], blocks=3, block_size=4) == 0


def test_takes_the_law_from_the_plan() -> None:
    load = next(w for w in small_workloads() if w.name == "overload")
    planned = make_policy("expected-completions", plan(load, small_hardware()))
    assert isinstance(planned, ExpectedCompletions)
    assert planned.gamma == 1.5
    # of 20 quantiles, half lie at or below the median
    assert np.median(planned.output_quantiles) == pytest.approx(np.median(load.output_tokens), abs=1.0)
    assert make_policy("expected-completions:gamma=3", plan(load, small_hardware())).pack()[0] == 3.0


@pytest.mark.parametrize("policy", [ExpectedCompletions(0.0, (1.0,)), ExpectedCompletions(99.0, (4.0, 1e6))], ids=repr)
def test_conforms_at_its_extremes(policy: Policy) -> None:
    check_policy(policy)


@pytest.mark.parametrize(
    ("gamma", "output_quantiles", "what"),
    [
        (-1.0, (1.0,), "gamma = -1.0 must be at least 0"),
        (np.nan, (1.0,), "gamma = nan"),
        (np.inf, (1.0,), "gamma = inf"),
        (1.0, (), "needs at least one output quantile"),
        (1.0, (0.5,), "at least 1 token"),
        (1.0, (3.0, 2.0), "must not fall"),
        (1.0, (3.0, np.nan), "must not fall"),
        (1.0, (3.0, np.inf), "and finite"),
    ],
)
def test_refuses_bad_parameters(gamma: float, output_quantiles: tuple[float, ...], what: str) -> None:
    with pytest.raises(InputError, match=f"policy expected-completions: .*{what}"):
        ExpectedCompletions(gamma, output_quantiles)
