"""Clients that give up: every step is vLLM's after its `finish_requests`, on generated workloads, with every policy."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.policies import Policy
from fluidgate.workload import Workload

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, cases, examples, timeouts, timeouts_of
from .rare_paths import rare_paths, require_reached
from .sessions import closed_loops, conversations

pytestmark = needs_vllm

EACH, OF_A_POLICY, IN_A_LOOP, ALL = 45, 5, 60, 340

ALWAYS = {
    "aborted before it was scheduled": 8,
    "aborted within its prompt": 3,
    "aborted while it streamed": 15,
    "aborted for its first token": 4,
    "aborted with others": 6,
    "aborted as an iteration is computed": 20,
}
"""At least so often does every kind of case take these paths."""


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ({}, {}),
        ({"shared": True}, {"prefix hits": 5}),
        ({"crowded": True}, {"preemptions": 8, "aborted after an eviction": 2}),
        ({"crowded": True, "shared": True}, {"preemptions": 8, "prefix hits": 5}),
    ],
    ids=["any", "shared prefixes", "crowded", "crowded, shared prefixes"],
)
def test_every_step_is_vllms(kind: dict[str, bool], reaches: dict[str, int]) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(cases(impatient=True, **kind))
    def check(case: Case) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine)))

    check()
    require_reached(reached, ALWAYS | reaches)


@st.composite
def impatient_loops(draw: st.DrawFn) -> tuple[Case, Workload]:
    """Closed loops and conversations with clients that give up."""
    case, workload = draw(st.one_of(closed_loops(), conversations()))
    return case, replace(workload, **timeouts(draw(timeouts_of(len(workload)))))


def test_others_are_sent_as_clients_leave() -> None:
    reached: Counter[str] = Counter()

    @examples(IN_A_LOOP, of=ALL)
    @given(impatient_loops())
    def check(made: tuple[Case, Workload]) -> None:
        case, workload = made
        reached.update(rare_paths(simulate_as_vllm(workload, case.hardware, case.engine)))

    check()
    require_reached(reached, {"aborted while it streamed": 10, "aborted before it was scheduled": 5})


ANY_CASE = st.one_of(cases(impatient=True, crowded=crowded, shared=shared) for crowded in (0, 1) for shared in (0, 1))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_acts_alike(name: str) -> None:
    reached: Counter[str] = Counter()

    @examples(OF_A_POLICY, of=ALL)
    @given(ANY_CASE, POLICIES[name])
    def check(case: Case, policy: Policy) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine, policy)))

    check()
    require_reached(reached, {"aborted while it streamed": 1})
