"""Mode `vllm` equals vLLM's own scheduler where groups of layers have blocks of their own, step for step."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.hardware import KvGroup
from fluidgate.policies import Policy

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import POLICIES, Case, examples
from .group_cases import LAYOUTS, group_cases
from .rare_paths import rare_paths, require_reached

pytestmark = needs_vllm

EACH, ALL = 12, 480


@pytest.fixture(autouse=True)
def only_where_groups_are_kept_alike() -> None:
    from fluidgate.serving.versions import keeps_groups_alike
    from fluidgate.serving.vllm_core import VLLM_VERSION

    if not keeps_groups_alike(VLLM_VERSION, {"state"}):
        pytest.skip(f"vLLM {VLLM_VERSION} keeps several KV groups in other ways than 0.32")


PATHS = {"chunks of a prompt": 10, "one-token batch entries": 200}
EVICTIONS = {"preemptions": 10, "cache full": 10}
HITS = {"prefix hits": 1}
"""At least so often does every layout take these paths."""

KINDS = [{}, {"shared": True}, {"crowded": True}, {"crowded": True, "shared": True}]


@pytest.mark.parametrize("kind", KINDS, ids=["any", "shared prefixes", "crowded", "crowded, shared prefixes"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_step_is_vllms(layout: str, kind: dict[str, bool]) -> None:
    reached: Counter[str] = Counter()

    @examples(EACH, of=ALL)
    @given(group_cases(LAYOUTS[layout], **kind))
    def check(case: Case) -> None:
        reached.update(rare_paths(simulate_as_vllm(case.workload, case.hardware, case.engine)))

    check()
    hits = HITS if kind == {"shared": True} else {}  # crowded requests are mostly shorter than a block that all share
    require_reached(reached, PATHS | hits | (EVICTIONS if kind.get("crowded") else {}))


def test_the_end_of_a_chunk_is_forgotten_last_and_evicted_first() -> None:
    """As the first request leaves its first chunk of 64 tokens, its four blocks of that chunk become free; the second
    takes all but two of them, and the third finds 32 tokens of it."""
    requests, prefixes = [(0, 64, 60), (8, 60, 3), (24, 49, 3)], [[1, 2, 3, 4], [], [1, 2, 3]]
    groups = (KvGroup("chunked", 12, 16, 64), KvGroup("full", 12, 16))
    case = Case(requests, blocks=16, prefixes=prefixes, unit=16, groups=groups)
    assert simulate_as_vllm(case.workload, case.hardware, case.engine).cached_tokens.tolist() == [0, 0, 32]


@examples(4 * EACH, of=ALL)
@given(
    st.one_of(*(group_cases(layout, crowded=True, shared=True) for layout in LAYOUTS.values())),
    st.one_of(*POLICIES.values()),
)
def test_every_policy_acts_alike(case: Case, policy: Policy) -> None:
    simulate_as_vllm(case.workload, case.hardware, case.engine, policy)
