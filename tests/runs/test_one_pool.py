"""A machine with several KV groups in runs: one pool in which its requests have as much room as in the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fluidgate.errors import KvPoolWarning
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.runs import compare, one_pool, simulate
from fluidgate.workload import Workload

WINDOWS = KvLaw((KvGroup("sliding", 10, 16, 512), KvGroup("sliding", 10, 16, 512), KvGroup("full", 10, 16)))
MACHINE = Hardware("windows", StepTime(0.01, 2e-5, 1e-8), num_gpu_blocks=2001, kv_law=WINDOWS)


def traffic(prompt: int, output: int, n: int = 400, rate: float = 4.0) -> Workload:
    return Workload(np.arange(n) / rate, np.full(n, prompt), np.full(n, output), name=f"{prompt} + {output}")


def test_one_full_group_is_left_as_it_is() -> None:
    machine = replace(MACHINE, kv_law=KvLaw.full(16))
    assert one_pool(traffic(100, 50), machine) is machine


@pytest.mark.parametrize(("prompt", "output", "more"), [(100, 100, 1 / 3), (8000, 400, 0.88)])
def test_requests_have_the_room_of_the_real_cache(prompt: int, output: int, more: float) -> None:
    """Short requests hold three groups' blocks, long ones little more than those of the layers that forget nothing."""
    workload = traffic(prompt, output)
    with pytest.warns(KvPoolWarning, match=r"3 groups of layers, and a run counts one pool of the right size"):
        pool = one_pool(workload, MACHINE)
    held = WINDOWS.blocks(np.arange(prompt, prompt + output)).mean()
    plain = -(-np.arange(prompt, prompt + output) // 16)
    assert pool.num_gpu_blocks / MACHINE.num_gpu_blocks == pytest.approx(plain.mean() / held, rel=0.02)
    assert pool.num_gpu_blocks / MACHINE.num_gpu_blocks == pytest.approx(more, rel=0.02)
    boundaries = [plan(workload, m, max_num_seqs=None).stability.memory_limit for m in (MACHINE, pool)]
    assert boundaries[1] == pytest.approx(boundaries[0], rel=0.01), "the plan and the runs agree"


def test_layers_that_all_have_a_window_are_no_group_too_many() -> None:
    window = replace(MACHINE, kv_law=KvLaw((KvGroup("sliding", 20, 16, 512),)))
    with pytest.warns(KvPoolWarning, match="layers that do not keep every token, and a run counts one pool"):
        pool = one_pool(traffic(1000, 300), window)
    assert pool.num_gpu_blocks > 2 * window.num_gpu_blocks, "1,150 tokens on average, of which 512 are kept"


def test_runs_count_the_pool_and_say_so() -> None:
    workload = traffic(1000, 300)
    with pytest.warns(KvPoolWarning):
        records = simulate(workload, MACHINE, "greedy")
    assert "3 groups of layers as one pool" in records.hardware.source
    assert records.hardware.num_gpu_blocks < MACHINE.num_gpu_blocks
    with pytest.warns(KvPoolWarning):
        comparison = compare(workload, MACHINE, policies=("greedy",), repeats=1)
    assert comparison.hardware == records.hardware
