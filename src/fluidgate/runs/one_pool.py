"""A machine whose KV cache has several groups of layers, as a run counts it: one pool of the right size."""

from __future__ import annotations

import warnings
from dataclasses import replace

from fluidgate.errors import KvPoolWarning
from fluidgate.fluid import RequestMix
from fluidgate.hardware import Hardware, KvLaw
from fluidgate.workload import Workload


def one_pool(workload: Workload, hardware: Hardware) -> Hardware:
    """`hardware` with one pool of blocks in which requests that keep every token have as much room as these have.

    The engine gives a request a block for every so many tokens. Where layers forget, or keep a state, that is too much
    or too little: the pool is scaled by what these requests hold on average over their lives, counted either way. Means
    are right; a single long request holds less than the engine counts, and a short one more.

    Warns:
        KvPoolWarning: the pool was scaled; says by how much.
    """
    law = hardware.law
    if law.is_one_full_group:
        return hardware
    mix, plain = RequestMix.from_workload(workload, 1.0), KvLaw.full(law.block_size)
    ratio = mix.mean(mix.memory_token_iterations(plain)) / mix.mean(mix.memory_token_iterations(law))
    blocks = max(2, int((hardware.num_gpu_blocks - 1) * ratio) + 1)
    several = len(law.groups) > 1
    kept = f"{len(law.groups)} groups of layers" if several else "layers that do not keep every token"
    warnings.warn(
        f"{hardware.name}: its KV cache has {kept}, and a run counts one pool of the right size for these requests: "
        f"{blocks:,} blocks of {law.block_size} tokens for its {hardware.num_gpu_blocks:,}",
        KvPoolWarning,
        stacklevel=3,
    )
    source = f"{hardware.source}; KV cache with {kept} as one pool of the right size for {workload.name}"
    return replace(hardware, num_gpu_blocks=blocks, kv_law=replace(plain, dtype=law.dtype), source=source)
