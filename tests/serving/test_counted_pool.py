"""A server's blocks as a policy counts them, against sums over the lives of requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fluidgate.hardware import KvGroup, KvLaw
from fluidgate.serving.counted_pool import REMEMBERED, CountedPool, law_of, unknown_kinds

WINDOWS = KvLaw((KvGroup("sliding", 10, 16, 512), KvGroup("sliding", 10, 16, 512), KvGroup("full", 10, 16)))


def life(law: KvLaw, prompt: int, output: int) -> float:
    """Blocks that a request holds, summed over its steps, one by one; half a block more or less for where it ends."""
    return float(law.blocks(np.arange(prompt, prompt + output)).sum())


def test_a_cache_that_keeps_every_token_is_counted_as_it_is() -> None:
    pool = CountedPool(KvLaw.full(16))
    pool.arrived(100)
    pool.ended(100, 50)
    assert pool.counted(1234) == 1234


@pytest.mark.parametrize(("prompt", "output"), [(100, 200), (3000, 600), (40_000, 2000)])
def test_requests_have_the_room_that_they_have(prompt: int, output: int) -> None:
    """A short request holds a block of each group where a policy counts one; of a long one the windows hold little."""
    pool = CountedPool(WINDOWS)
    pool.ended(prompt, output)
    ratio = life(KvLaw.full(16), prompt, output) / life(WINDOWS, prompt, output)
    assert pool.counted(1_000_000) == pytest.approx(1_000_000 * ratio, rel=0.005)


def test_prompts_stand_in_until_a_request_has_ended() -> None:
    pool = CountedPool(WINDOWS)
    assert pool.counted(900) == 900, "nothing is known"
    pool.arrived(160)
    assert pool.counted(900) == pytest.approx(300, rel=0.1)
    pool.ended(40_000, 1)
    assert pool.counted(900) == pytest.approx(900 * 2500 / (2500 + 2 * 33), rel=0.01)
    pool.arrived(160)
    pool.ended(160, 0)
    assert pool.counted(900) == pytest.approx(900 * 2500 / (2500 + 2 * 33), rel=0.01), "neither of these has run"


def test_the_past_fades() -> None:
    pool = CountedPool(WINDOWS)
    pool.ended(40_000, 1)
    for _ in range(int(10 * REMEMBERED)):
        pool.ended(160, 1)
    assert pool.counted(900) == pytest.approx(300, rel=0.1)


def group(name: str, block_size: int = 16, **of_kind: Any) -> Any:
    """As vLLM's scheduler has it."""
    spec = type(name, (), {"block_size": block_size, "sliding_window": None, **of_kind})()
    return SimpleNamespace(layer_names=["a", "b"], kv_cache_spec=spec)


def test_the_law_is_read_from_the_schedulers_groups() -> None:
    groups = [
        group("SlidingWindowSpec", sliding_window=128),
        group("ChunkedLocalAttentionSpec", attention_chunk_size=8192),
        group("MambaSpec", 528, num_prefill_checkpoint_blocks=1),
        group("MLAAttentionSpec", 528),
    ]
    assert unknown_kinds(groups) == []
    assert law_of(groups, 99).groups == (
        KvGroup("sliding", 2, 16, 128),
        KvGroup("chunked", 2, 16, 8192),
        KvGroup("state", 2, 528, copies=3),
        KvGroup("latent", 2, 528),
    )


def test_layers_that_differ_in_bytes_alone_are_one_group() -> None:
    layers = {"a": group("FullAttentionSpec", 32).kv_cache_spec}
    both = group("UniformTypeKVCacheSpecs", kv_cache_specs=layers)
    assert law_of([both], 32) == KvLaw((KvGroup("full", 2, 32),))


def test_of_an_unknown_kind_one_group_counts_as_full_attention_and_several_are_named() -> None:
    ring = group("CircularBufferSpec")
    assert law_of([ring], 64) == KvLaw.full(64)
    assert unknown_kinds([ring]) == []
    assert unknown_kinds([ring, group("FullAttentionSpec")]) == ["CircularBufferSpec"]
