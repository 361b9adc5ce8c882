"""A machine whose KV cache has several groups of layers, as one pool of the right size."""

from __future__ import annotations

import warnings
from dataclasses import replace

from fluidgate.engine import EngineConfig, not_modelled
from fluidgate.errors import KvPoolWarning
from fluidgate.fluid import plain_blocks
from fluidgate.hardware import Hardware, KvLaw
from fluidgate.workload import Workload


def one_pool(workload: Workload, hardware: Hardware) -> Hardware:
    """`hardware` with one pool of blocks in which requests that keep every token have as much room as these have.

    That is how policies are planned and what they see. Means are right; a single long request holds less than is
    counted, and a short one more.
    """
    law = hardware.law
    if law.is_one_full_group:
        return hardware
    source = f"{hardware.source}; KV cache with {_kept(law)} as one pool of the right size for {workload.name}"
    plain = replace(KvLaw.full(law.block_size), dtype=law.dtype)
    return replace(hardware, num_gpu_blocks=plain_blocks(workload, hardware), kv_law=plain, source=source)


def pool_of_run(workload: Workload, hardware: Hardware, config: EngineConfig) -> Hardware:
    """`hardware` as a run keeps its blocks: group by group where the engine does that, or else as one pool.

    Warns:
        KvPoolWarning: it is one pool; says why, and of what size.
    """
    reason = not_modelled(hardware.law, config)
    if not reason:
        return hardware
    pool = one_pool(workload, hardware)
    warnings.warn(
        f"{hardware.name}: its KV cache has {_kept(hardware.law)}, and a run counts one pool of the right size for "
        f"these requests: {pool.num_gpu_blocks:,} blocks of {pool.block_size} tokens for its "
        f"{hardware.num_gpu_blocks:,}; not modelled: {reason}",
        KvPoolWarning,
        stacklevel=3,
    )
    return pool


def _kept(law: KvLaw) -> str:
    return f"{len(law.groups)} groups of layers" if len(law.groups) > 1 else "layers that do not keep every token"
