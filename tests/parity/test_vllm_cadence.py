"""`prefill_schedule_interval` equals vLLM's own, on one engine, step for step and bit for bit."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import RunRecords
from fluidgate.policies import Interval
from fluidgate.workload import Workload

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, cases, examples
from .group_cases import LAYOUTS, group_cases
from .rare_paths import rare_paths, require_reached
from .sessions import closed_loops, conversations

pytestmark = needs_vllm

EACH, WITH_POLICIES, IMPATIENT, IN_SESSIONS, IN_GROUPS, ALL = 40, 80, 20, 40, 40, 440

ALWAYS = {"decodes alone": 1000, "let go early": 60}

INTERVALS = st.sampled_from([2, 3, 4, 8, 50])


@pytest.fixture(autouse=True)
def only_where_one_engine_has_it() -> None:
    from fluidgate.serving.versions import spaces_prefills
    from fluidgate.serving.vllm_core import VLLM_VERSION

    if not spaces_prefills(VLLM_VERSION):
        pytest.skip(f"vLLM {VLLM_VERSION} has no prefill_schedule_interval on an engine by itself; 0.33 is the first")


def cadence_paths(records: RunRecords) -> Counter[str]:
    """Steps of decodes alone while prompts wait, and prompts that were taken before the interval was over.

    Entries of several tokens are prompts. Where one follows another sooner, with a decode beside it, requests piled up.
    """
    steps = records.steps
    assert steps is not None
    ends = np.cumsum(steps.scheduled)
    tokens = [steps.batch[end - count : end, 1] for end, count in zip(ends, steps.scheduled, strict=True)]
    prompts = np.array([(entry > 1).any() for entry in tokens], bool)
    decodes = np.array([len(entry) > 0 and (entry == 1).any() for entry in tokens], bool)
    since = np.diff(np.flatnonzero(prompts & (steps.scheduled > 0)))
    soon = since < records.config.prefill_schedule_interval
    return Counter(
        {
            "decodes alone": int((decodes & ~prompts & (steps.waiting > 0)).sum()),
            "let go early": int((soon & decodes[np.flatnonzero(prompts)[1:]]).sum()),
        }
    )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ({}, {"preemptions": 8}),
        ({"crowded": True}, {"preemptions": 200}),
        ({"crowded": True, "shared": True}, {"preemptions": 60, "prefix hits": 8}),
    ],
    ids=["any", "crowded", "crowded, shared prefixes"],
)
def test_every_step_is_vllms(kind: dict[str, bool], reaches: dict[str, int], asynchronous: bool) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(cases(**kind), INTERVALS)
    def check(case: Case, interval: int) -> None:
        engine = replace(case.engine, async_scheduling=asynchronous, prefill_schedule_interval=interval)
        records = simulate_as_vllm(case.workload, case.hardware, engine)
        reached.update(rare_paths(records) | cadence_paths(records))

    check()
    require_reached(reached, ALWAYS | reaches)


@examples(WITH_POLICIES, of=ALL)
@given(st.data())
def test_policies_decide_alike(data: st.DataObject) -> None:
    policy = data.draw(st.one_of([drawn for name, drawn in POLICIES.items() if "wait" not in name]))
    case = data.draw(cases(crowded=data.draw(st.booleans())))
    engine = replace(
        case.engine, async_scheduling=data.draw(st.booleans()), prefill_schedule_interval=data.draw(INTERVALS)
    )
    simulate_as_vllm(case.workload, case.hardware, engine, policy)


@examples(IMPATIENT, of=ALL)
@given(cases(impatient=True), cases(impatient=True, crowded=True, shared=True), st.booleans(), INTERVALS)
def test_clients_give_up(calm: Case, crowded: Case, asynchronous: bool, interval: int) -> None:
    for case in (calm, crowded):
        engine = replace(case.engine, async_scheduling=asynchronous, prefill_schedule_interval=interval)
        simulate_as_vllm(case.workload, case.hardware, engine)


@examples(IN_SESSIONS, of=ALL)
@given(st.one_of(closed_loops(), conversations()), st.booleans(), INTERVALS)
def test_turns_and_closed_loops(drawn: tuple[Case, Workload], asynchronous: bool, interval: int) -> None:
    case, workload = drawn
    engine = replace(case.engine, async_scheduling=asynchronous, prefill_schedule_interval=interval)
    simulate_as_vllm(workload, case.hardware, engine)


@examples(IMPATIENT, of=ALL)
@given(cases(), st.sampled_from([1.0, 2.0, 5.0]))
def test_the_policy_sets_it(case: Case, steps: float) -> None:
    records = simulate_as_vllm(case.workload, case.hardware, case.engine, Interval(steps))
    assert records.config.prefill_schedule_interval == steps


WITH_STATES = ("qwen3-next", "nemotron-h", "mamba")
"""vLLM 0.33 keeps states in other ways than 0.32, whatever the interval."""
WITHOUT_STATES = [groups for name, groups in LAYOUTS.items() if name not in WITH_STATES]


@examples(IN_GROUPS, of=ALL)
@given(st.one_of(*(group_cases(groups, crowded=True, shared=True) for groups in WITHOUT_STATES)), INTERVALS)
def test_groups_of_layers(case: Case, interval: int) -> None:
    simulate_as_vllm(case.workload, case.hardware, replace(case.engine, prefill_schedule_interval=interval))
