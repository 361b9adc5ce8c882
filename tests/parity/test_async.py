"""Asynchronous scheduling equals vLLM's `AsyncScheduler` with two batches in flight, step for step and bit for bit."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.workload import Workload

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, cases, examples
from .rare_paths import rare_paths, require_reached
from .sessions import closed_loops, conversations

pytestmark = needs_vllm

EACH, WITH_POLICIES, IMPATIENT, IN_SESSIONS, ALL = 60, 80, 20, 40, 400

ALWAYS = {"preemptions": 3, "chunks of a prompt": 100, "token budget used up": 50}


@pytest.fixture(autouse=True)
def only_on_the_version_it_is_shown_on() -> None:
    from fluidgate.serving.vllm_core import VLLM_VERSION

    if not VLLM_VERSION.startswith("0.32."):
        pytest.skip(f"asynchronous scheduling is shown equal on vLLM 0.32, and this is {VLLM_VERSION}")


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ({}, {"idle engine": 3, "one-token output": 2}),
        ({"shared": True}, {"prefix hits": 5}),
        ({"crowded": True}, {"preemptions": 60, "hits on own old blocks": 8, "steps that preempted several": 2}),
        ({"crowded": True, "shared": True}, {"preemptions": 60, "prefix hits": 8}),
    ],
    ids=["any", "shared prefixes", "crowded", "crowded, shared prefixes"],
)
def test_every_step_is_vllms(kind: dict[str, bool], reaches: dict[str, int]) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(cases(**kind))
    def check(case: Case) -> None:
        engine = replace(case.engine, async_scheduling=True)
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, engine)))

    check()
    require_reached(reached, ALWAYS | reaches)


@examples(WITH_POLICIES, of=ALL)
@given(st.data())
def test_policies_decide_alike(data: st.DataObject) -> None:
    policy = data.draw(st.one_of(list(POLICIES.values())))
    case = data.draw(cases(crowded=data.draw(st.booleans())))
    simulate_as_vllm(case.workload, case.hardware, replace(case.engine, async_scheduling=True), policy)


def test_clients_give_up_with_tokens_in_flight() -> None:
    reached: Counter[str] = Counter()

    @examples(IMPATIENT, of=ALL)
    @given(cases(impatient=True), cases(impatient=True, crowded=True, shared=True))
    def check(calm: Case, crowded: Case) -> None:
        for case in (calm, crowded):
            engine = replace(case.engine, async_scheduling=True)
            reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, engine)))

    check()
    require_reached(reached, {"aborted while it streamed": 10, "prefix hits": 2})


def test_replies_that_land_late_are_found_by_the_next_turn() -> None:
    @examples(IN_SESSIONS, of=ALL)
    @given(st.one_of(closed_loops(), conversations()))
    def check(drawn: tuple[Case, Workload]) -> None:
        case, workload = drawn
        simulate_as_vllm(workload, case.hardware, replace(case.engine, async_scheduling=True))

    check()
