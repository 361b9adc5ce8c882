"""A KV cache of several groups of layers as a policy counts it: a block for every so many tokens of a request."""

from __future__ import annotations

from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware import Hardware, KvLaw
from fluidgate.workload import Workload


def plain_blocks(workload: Workload, hardware: Hardware) -> int:
    """Blocks, one of them null, of the pool in which requests that keep every token have as much room as these have.

    Where layers forget, or keep a state, a block for every so many tokens is too much or too little: the pool is scaled
    by what these requests hold on average over their lives, counted either way.
    """
    law = hardware.law
    if law.is_one_full_group:
        return hardware.num_gpu_blocks
    mix, plain = RequestMix.from_workload(workload, 1.0), KvLaw.full(law.block_size)
    ratio = mix.mean(mix.memory_token_iterations(plain)) / mix.mean(mix.memory_token_iterations(law))
    return max(2, int((hardware.num_gpu_blocks - 1) * ratio) + 1)
