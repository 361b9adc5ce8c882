"""Mode `vllm` equals vLLM's own scheduler on generated workloads, step for step and bit for bit."""

from collections import Counter

import pytest
from hypothesis import given

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import Case, cases, examples
from .rare_paths import rare_paths, require_reached

pytestmark = needs_vllm

EACH, ALL = 350, 1400

ALWAYS = {
    "preemptions": 100,
    "cache full": 1000,
    "chunks of a prompt": 1000,
    "token budget used up": 300,
    "seats taken": 300,
    "no room for the next one": 1000,
    "arrival as a step ends": 50,
    "one-token prompt": 30,
}
"""At least so often does every kind of case take these paths: about a third of what was counted."""


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ({}, {"hits on own old blocks": 30, "idle engine": 30, "one-token output": 15}),
        ({"shared": True}, {"prefix hits": 100, "idle engine": 15, "one-token output": 15}),
        ({"crowded": True}, {"preemptions": 1000, "hits on own old blocks": 150, "steps that preempted several": 50}),
        ({"crowded": True, "shared": True}, {"preemptions": 1000, "prefix hits": 150, "hits on own old blocks": 20}),
    ],
    ids=["any", "shared prefixes", "crowded", "crowded, shared prefixes"],
)
def test_every_step_is_vllms(kind: dict[str, bool], reaches: dict[str, int]) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(cases(**kind))
    def check(case: Case) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine)))

    check()
    require_reached(reached, ALWAYS | reaches)
