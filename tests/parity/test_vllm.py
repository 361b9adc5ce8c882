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
    "preemptions": 50,
    "cache full": 600,
    "chunks of a prompt": 3000,
    "token budget used up": 1500,
    "seats taken": 150,
    "no room for the next one": 1000,
    "arrival as a step ends": 60,
    "one-token prompt": 35,
}
"""At least so often does every kind of case take these paths: about a third of what was counted."""


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ({}, {"hits on own old blocks": 30, "idle engine": 35, "one-token output": 20}),
        ({"shared": True}, {"prefix hits": 90, "idle engine": 25, "one-token output": 15}),
        ({"crowded": True}, {"preemptions": 1300, "hits on own old blocks": 200, "steps that preempted several": 60}),
        ({"crowded": True, "shared": True}, {"preemptions": 1300, "prefix hits": 150, "hits on own old blocks": 20}),
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
