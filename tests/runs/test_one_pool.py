"""A machine with several KV groups in runs: group by group, or as one pool with as much room for its requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, Mode, run
from fluidgate.engine.loop import make_view
from fluidgate.engine.state import new_state
from fluidgate.errors import InputError, KvPoolWarning
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Greedy
from fluidgate.runs import one_pool, simulate
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
    pool = one_pool(workload, MACHINE)
    assert "3 groups of layers as one pool" in pool.source
    held = WINDOWS.blocks(np.arange(prompt, prompt + output)).mean()
    plain = -(-np.arange(prompt, prompt + output) // 16)
    assert pool.num_gpu_blocks / MACHINE.num_gpu_blocks == pytest.approx(plain.mean() / held, rel=0.02)
    assert pool.num_gpu_blocks / MACHINE.num_gpu_blocks == pytest.approx(more, rel=0.02)
    boundaries = [plan(workload, m, max_num_seqs=None).stability.memory_limit for m in (MACHINE, pool)]
    assert boundaries[1] == pytest.approx(boundaries[0], rel=0.01), "the plan and the runs agree"


def test_layers_that_all_have_a_window_are_no_group_too_many() -> None:
    window = replace(MACHINE, kv_law=KvLaw((KvGroup("sliding", 20, 16, 512),)))
    pool = one_pool(traffic(1000, 300), window)
    assert pool.num_gpu_blocks > 2 * window.num_gpu_blocks, "1,150 tokens on average, of which 512 are kept"


def test_runs_keep_the_blocks_of_each_group() -> None:
    """A request that is alone holds what the law says, in the blocks of the machine."""
    alone = traffic(1000, 300, n=1)
    records = simulate(alone, MACHINE, "greedy", record="steps", compile=False)
    assert records.hardware == MACHINE
    assert records.steps is not None
    assert records.steps.tokens.tolist() == [1000] + [1] * 299
    held = MACHINE.num_gpu_blocks - 1 - records.steps.free_blocks
    assert held[1:].tolist() == WINDOWS.blocks(np.arange(1001, 1300)).tolist()
    assert held[0] == 3 * 63, "the whole prompt is in flight"


@pytest.mark.parametrize("mode", ["sarathi", "prefill-first"])
def test_what_is_not_modelled_is_one_pool_and_says_so(mode: Mode) -> None:
    workload, config = traffic(100, 30, n=20), EngineConfig(mode=mode)
    with pytest.warns(KvPoolWarning, match=rf"3 groups of layers, and a run counts one pool.*in mode {mode}"):
        records = simulate(workload, MACHINE, "greedy", config=config, compile=False)
    assert records.hardware == one_pool(workload, MACHINE)
    with pytest.raises(InputError, match=rf"several KV groups in mode {mode} .*: not modelled"):
        run(workload, MACHINE, Greedy(), config, compile=False)


def test_states_beside_blocks_of_other_sizes_are_one_pool_while_prefixes_are_cached() -> None:
    law = KvLaw((KvGroup("state", 3, 64), KvGroup("sliding", 3, 16, 128), KvGroup("full", 3, 64)))
    machine = replace(MACHINE, block_size=64, kv_law=law)
    workload = traffic(100, 30, n=20)
    with pytest.warns(KvPoolWarning, match="states or chunks beside blocks of other sizes, with prefix caching"):
        simulate(workload, machine, "greedy", compile=False)
    records = simulate(workload, machine, "greedy", config=EngineConfig(enable_prefix_caching=False), compile=False)
    assert records.hardware == machine


def test_a_request_that_never_fits_is_refused_in_blocks() -> None:
    """Of 40,000 tokens the windows keep 512 and what a step computes: 2,048 tokens."""
    most = 2500 + 2 * min(2500, -(-(511 + 2048) // 16) + 1)
    with pytest.raises(InputError, match=rf"request 0 needs {most:,} KV blocks .* and windows holds 2,000"):
        simulate(traffic(39_000, 1001, n=1), MACHINE, "greedy", compile=False)
    enough = replace(MACHINE, num_gpu_blocks=most + 1)
    assert simulate(traffic(39_000, 1001, n=1), enough, "greedy", compile=False).finished.all()


def test_policies_are_planned_for_the_pool_that_they_see() -> None:
    """As many blocks are free as the requests would hold where nothing is forgotten, of a pool of that size."""
    workload = traffic(1000, 300, n=40)
    policy = Greedy()
    state, cache = new_state(workload, MACHINE, EngineConfig(), policy)
    view = interpreted(make_view)(state, cache)
    assert view.total_blocks == view.free_blocks == one_pool(workload, MACHINE).num_gpu_blocks - 1
    cache.free[0] = 500
    assert interpreted(make_view)(state, cache).free_blocks == 500 * view.total_blocks // 2000
