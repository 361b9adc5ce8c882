"""A hardware file and the options beside it: those that it answers already are refused, none is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fluidgate.cli.options import HardwareOptions
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, KvGroup, KvLaw, ServerDefaults, StepTime, write_hardware

PLAIN = Hardware("m", StepTime(0.01), 1000, kv_law=KvLaw((KvGroup("full", 8, 16),), 4096))
GROUPS = KvLaw((KvGroup("full", 8, 16), KvGroup("sliding", 8, 16, 128)), 4096)
SEVERAL = Hardware("m", StepTime(0.01), 1000, kv_law=GROUPS, server=ServerDefaults(8, 100, 1000))


def loaded(folder: Path, machine: Hardware, **options: Any) -> Hardware:
    file = folder / "machine.json"
    write_hardware(machine, file)
    return HardwareOptions(hardware_file=file, **options).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pp": 2}, "leave --pp out"),
        ({"kv_cache_dtype": "fp8", "tp": 2}, "leave --tp and --kv-cache-dtype out"),
        ({"model": "llama-3.1-8b"}, "leave --model out"),
        ({"gpu_memory_utilization": 0.5, "variant": "paper"}, "leave --variant and --gpu-memory-utilization out"),
        ({"block_size": 32}, "with --block-size 32 say how large the KV cache is"),
        ({"num_gpu_blocks": 0}, "num_gpu_blocks = 0 leaves no room for KV"),
        ({"kv_cache_tokens": 8}, "kv_cache_tokens = 8 does not hold two blocks of 16 tokens"),
        ({"kv_cache_tokens": 1600, "num_gpu_blocks": 100}, "the KV cache is given twice"),
    ],
)
def test_what_the_file_states_already_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        loaded(tmp_path, PLAIN, **options)
    assert message in str(refusal.value)


def test_another_cache_replaces_that_of_the_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, PLAIN).num_gpu_blocks == 1000
    assert loaded(tmp_path, PLAIN, kv_cache_tokens=8000).num_gpu_blocks == 500
    larger = loaded(tmp_path, PLAIN, block_size=32, kv_cache_tokens=8000)
    assert (larger.num_gpu_blocks, larger.block_size) == (250, 32)
    assert larger.law.bytes_per_block == 2 * 4096


def test_tokens_of_several_groups_are_those_that_a_server_logs(tmp_path: Path) -> None:
    """A request of 1,000 tokens takes 63 blocks and, of a window of 128 with 2 × 100 in flight, ⌈327/16⌉ + 1."""
    assert loaded(tmp_path, SEVERAL, kv_cache_tokens=10_000).num_gpu_blocks == 10 * (63 + 21 + 1)


def test_blocks_of_several_groups_keep_their_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"block_size = 32: the blocks of a cache of several kinds .* have 16 tokens"):
        loaded(tmp_path, SEVERAL, block_size=32, num_gpu_blocks=100)
