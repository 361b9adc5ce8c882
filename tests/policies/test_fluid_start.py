"""`fluid` without a prior: soon as fast as greedy on short outputs, and no storm of evictions on long ones."""

from itertools import product

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Fluid, Greedy, Policy
from fluidgate.policies.parts.margin import RISK, START_COMPLETIONS
from fluidgate.testing import check_same
from fluidgate.workload import Workload

CONFIG = EngineConfig(max_num_seqs=1024, enable_prefix_caching=False)
SEEDS = range(4)

SHORT = {
    "1 to 10": lambda rng, n: rng.integers(1, 11, n),
    "10 to 50": lambda rng, n: rng.integers(10, 51, n),
    "geometric": lambda rng, n: rng.geometric(1 / 20, n),
    "always 1": lambda rng, n: np.ones(n, int),
    "always 32": lambda rng, n: np.full(n, 32),
    "50 to 200": lambda rng, n: rng.integers(50, 201, n),
    "10 or 50": lambda rng, n: rng.choice([10, 50], n),
    "short, a rare long one": lambda rng, n: np.where(rng.random(n) < 0.03, 300, rng.integers(5, 31, n)),
}


MISSED = {
    ("always 32", 39),
    ("always 32", 100),
    ("always 32", 400),
    ("50 to 200", 39),
    ("50 to 200", 100),
    ("10 or 50", 400),
    ("short, a rare long one", 100),
    ("short, a rare long one", 400),
}
"""Where it takes more than a tenth longer: cohorts in phase, a few requests that fill memory, and a tail seen late."""


def case(lengths: str, blocks: int) -> object:
    """A law on a machine, expected to fail where it is known to miss."""
    missed = pytest.mark.xfail(raises=AssertionError, strict=True, reason="takes more than a tenth longer than greedy")
    return pytest.param(lengths, blocks, marks=[missed] if (lengths, blocks) in MISSED else [])


def burst(lengths: str, requests: int, seed: int) -> Workload:
    """Prompts of 5 to 60 tokens, all at once."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(5, 61, requests)
    return Workload(np.zeros(requests), prompts, SHORT[lengths](rng, requests), name="burst")


def served(workload: Workload, blocks: int, policy: Policy) -> RunRecords:
    hardware = Hardware("small", StepTime(0.012, 4e-5, 3.5e-7), blocks + 1, 16)
    return run(workload, hardware, policy, CONFIG)


@pytest.mark.parametrize(("lengths", "blocks"), [case(*which) for which in product(SHORT, (39, 100, 400))])
def test_short_outputs_take_as_long_as_greedily(lengths: str, blocks: int) -> None:
    """Within a tenth; of evictions at most those that `evicted_share` accepts, or greedy's."""
    requests = 2 * blocks + 2
    ratios, evictions = [], []
    for seed in SEEDS:
        workload = burst(lengths, requests, seed)
        greedy, ours = (served(workload, blocks, policy) for policy in (Greedy(), Fluid()))
        ratios.append((ours.iterations / greedy.iterations, ours.end_s / greedy.end_s))
        evictions.append((greedy.preemptions.sum(), ours.preemptions.sum()))
    iterations, seconds = np.mean(ratios, axis=0)
    assert iterations < 1.1
    assert seconds < 1.1
    greedily, evicted = np.mean(evictions, axis=0)
    assert evicted <= max(greedily, Fluid().evicted_share * requests / RISK)


@pytest.mark.parametrize(("blocks", "requests", "prompt"), [(2500, 500, 200), (2500, 500, 30), (26_000, 1500, 200)])
def test_long_outputs_do_not_begin_with_a_storm(blocks: int, requests: int, prompt: int) -> None:
    """Evicted are what `evicted_share` accepts of all requests, and what may enter beyond the start's forecast."""
    for seed in SEEDS[:2]:
        output = np.random.default_rng(seed).integers(200, 2001, requests)
        workload = Workload(np.zeros(requests), np.full(requests, prompt), output, name="long")
        greedy, ours = (served(workload, blocks, policy) for policy in (Greedy(), Fluid()))
        allowed = Fluid().evicted_share * (requests + START_COMPLETIONS / RISK)
        assert ours.preemptions.sum() < allowed < greedy.preemptions.sum() / 5
        assert ours.end_s < 1.05 * greedy.end_s


def test_the_start_is_the_same_interpreted() -> None:
    workload = burst("10 to 50", 60, 5)
    hardware = Hardware("small", StepTime(0.012, 4e-5, 3.5e-7), 40, 16)
    compiled, plain = (
        run(workload, hardware, Fluid(), CONFIG, record="decisions", compile=compile) for compile in (True, False)
    )
    assert compiled.preemptions.sum() > 0
    check_same(compiled, plain, "interpreted equals compiled")


def test_what_may_be_evicted_decides_how_boldly_it_begins() -> None:
    """Without evictions to spend nothing enters beyond the forecast; with all of them it begins as greedy does."""
    workload = burst("10 to 50", 80, 1)

    def begin(policy: Policy) -> int:
        return int((served(workload, 39, policy).first_scheduled_s == 0.0).sum())

    first = [begin(Fluid(share)) for share in (0.0, 0.05, 0.1, 1.0)]
    assert 1 <= first[0] < first[1] < first[2] < first[3] == begin(Greedy())
