"""Every policy acts on vLLM's scheduler as it does on the simulator's: same decisions, holds and pauses."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fluidgate.policies
from fluidgate.policies import Policy, make_policy
from fluidgate.runs import plan_for

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, cases, examples
from .rare_paths import rare_paths, require_reached

pytestmark = needs_vllm

EACH, ALL = 60, 800

ANY_CASE = st.one_of(cases(), cases(crowded=True), cases(shared=True), cases(crowded=True, shared=True))

HOLDS = {"held requests": 50}
REACHES = {
    "greedy": {"preemptions": 50},
    "concurrency-cap": HOLDS,
    "fluid-volume": HOLDS,
    "fluid": HOLDS | {"shed": 20},
    "known-deadlines": HOLDS,
    "lifo": {"preemptions": 50},
    "queue-cap": {"shed": 50},
    "codel": {"shed": 20},
    "known-lengths": HOLDS,
    "mc-sf": HOLDS,
    "shortest-first": {"preemptions": 50},
    "smallest-volume-first": {"preemptions": 50},
    "a-min": HOLDS | {"preemptions": 50},
    "expected-completions": HOLDS | {"preemptions": 20},
    "max-utilization": HOLDS | {"preemptions": 50},
    "no-evict": HOLDS,
    "past-future": HOLDS | {"preemptions": 20},
    "rate-limited": HOLDS,
    "sglang": HOLDS | {"preemptions": 20},
    "watermark": {"no room for the next one": 500},
    "wait": HOLDS,
    "wait, strict": HOLDS | {"paused residents": 50, "stalled": 10},
    "nested-wait": HOLDS,
    "nested-wait, strict": HOLDS | {"paused residents": 20, "stalled": 10},
}


ELSEWHERE = {"interval"}
"""In test_vllm_cadence.py: the installed vLLM does not have what it sets."""


def test_every_built_in_policy_is_here() -> None:
    built_in = (getattr(fluidgate.policies, name) for name in fluidgate.policies.__all__)
    names = {made.name for made in built_in if isinstance(made, type) and issubclass(made, Policy)}
    assert {name.partition(",")[0] for name in POLICIES} == names - {"policy"} - ELSEWHERE
    assert set(REACHES) == set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_acts_alike(name: str) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(ANY_CASE, POLICIES[name])
    def check(case: Case, policy: Policy) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine, policy)))

    check()
    require_reached(reached, REACHES[name])


SPECS = [name.replace(", strict", ":strict=true") for name in POLICIES]


@examples(3 * EACH, of=ALL)
@given(ANY_CASE, st.sampled_from(SPECS))
def test_planned_policies_act_alike(case: Case, spec: str) -> None:
    policy = make_policy(spec, plan_for(case.workload, case.hardware, case.engine))
    simulate_as_vllm(case.workload, case.hardware, case.engine, policy)


@dataclass(frozen=True)
class ShortPromptsFirst(Policy):
    """Two classes by prompt length, each in its own order; a third of the residents pauses in every iteration."""

    edge: float
    quota: float

    name = "short-prompts-first"

    @property
    def num_classes(self) -> int:
        return 2

    @staticmethod
    def classify(params, request):
        return 1 if request.prompt_tokens > params[0] else 0

    @staticmethod
    def rank(params, request):
        return request.prompt_tokens % 8

    @staticmethod
    def admit(params, memory, view, out_quota):
        out_quota[0] = int(params[1])
        out_quota[1] = 1 if view.iteration % 2 == 0 or len(view.residents) == 0 else 0
        return np.inf

    @staticmethod
    def advance(params, memory, view, out_mask):
        for i in range(1, len(view.residents)):
            out_mask[i] = (i + view.iteration) % 3 != 0
        return np.inf


@dataclass(frozen=True)
class LongPromptsLast(Policy):
    """The engine's own admission in another order."""

    name = "long-prompts-last"

    @staticmethod
    def rank(params, request):
        return request.prompt_tokens


@pytest.mark.parametrize("policy", [ShortPromptsFirst(20.0, 2.0), ShortPromptsFirst(8.0, 1.0), LongPromptsLast()])
def test_a_policy_of_ones_own_acts_alike(policy: Policy) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(ANY_CASE)
    def check(case: Case) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine, policy)))

    check()
    require_reached(reached, {"preemptions": 50})
