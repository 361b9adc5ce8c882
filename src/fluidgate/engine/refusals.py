"""What a run refuses before it starts: requests, limits and machines that cannot go together, each in one sentence."""

from __future__ import annotations

import numpy as np

from fluidgate.bounds import physical_memory_bytes
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.group_layout import GroupLayout, layout_of, most_blocks, not_modelled
from fluidgate.engine.kv_cache import cache_bytes
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy
from fluidgate.workload import Workload

CLOCK_PRECISION = 1e-3
"""How much of the shortest step the spacing of floats may be at a run's last time."""


def refuse_coarse_clock(time_s: float, hardware: Hardware, what: str) -> None:
    """Refuse times at which the floats lie so far apart that the clock rounds the steps.

    Raises:
        InputError: their spacing at `time_s` is more than a thousandth of the shortest step.
    """
    spacing_s = float(np.spacing(time_s))
    if spacing_s > CLOCK_PRECISION * hardware.shortest_step_s:
        raise InputError(
            f"{what} {time_s:,.0f} s, where the clock moves by {spacing_s:.2g} s at the least, too coarse for steps of "
            f"{hardware.name} from {hardware.shortest_step_s:.2g} s on; use a part of the trace, or a higher rate"
        )


def refuse_beyond_memory(hardware: Hardware, replicas: int) -> None:
    """More blocks than this machine's memory can simulate, on so many replicas."""
    needed, available = replicas * cache_bytes(hardware.num_gpu_blocks), physical_memory_bytes()
    if needed > available:
        several = f" on each of {replicas:,} replicas" if replicas > 1 else ""
        raise InputError(
            f"{hardware.name}: to simulate {hardware.num_gpu_blocks:,} KV blocks{several} takes {needed / 2**30:,.1f} "
            f"GiB of memory, and this machine has {available / 2**30:,.1f}; use fewer blocks, or a larger block_size"
        )


def refuse_beyond_grid(hardware: Hardware, slots: int, longest: int, budget: int) -> None:
    """Steps that the hardware's grid does not reach."""
    if hardware.grid is not None:
        hardware.grid.refuse_beyond(slots, longest, budget, hardware.name)


def layout_for(hardware: Hardware, config: EngineConfig, longest: int, budget: int) -> GroupLayout:
    """How a run keeps the blocks; refuses what the engine does not keep group by group."""
    reason = not_modelled(hardware.law, config)
    if reason:
        raise InputError(f"{hardware.name}: {reason}: not modelled; count its KV cache as one pool (`runs.one_pool`)")
    return layout_of(
        hardware.law,
        longest,
        budget,
        batches_in_flight=config.batches_in_flight,
        prefix_caching=config.enable_prefix_caching,
    )


def refuse_what_never_fits(workload: Workload, hardware: Hardware, layout: GroupLayout) -> None:
    """Requests that the cache does not hold even when they are alone."""
    peak_tokens = workload.prompt_tokens + workload.output_tokens - 1  # the last token's KV is never written
    blocks = most_blocks(hardware.law, peak_tokens, layout)
    too_large = blocks > hardware.num_gpu_blocks - 1
    if too_large.any():
        i = int(np.argmax(too_large))
        lengths = f"(prompt {workload.prompt_tokens[i]:,} + output {workload.output_tokens[i]:,})"
        needs, holds = f"{peak_tokens[i]:,} KV tokens {lengths}", f"{hardware.kv_capacity_tokens:,}"
        if len(layout.groups):
            needs, holds = f"{blocks[i]:,} KV blocks {lengths}", f"{hardware.num_gpu_blocks - 1:,}"
        raise InputError(
            f"{workload.name}: request {i} needs {needs} and {hardware.name} holds {holds}; "
            f"{int(too_large.sum()):,} of {len(workload):,} requests are too large. "
            "Use more KV blocks, or leave those requests out of the trace"
        )


def refuse_endless_hold(policy: Policy, config: EngineConfig) -> None:
    """An interval between prompts that is counted in steps, and a policy that may let no step happen."""
    if config.prefill_schedule_interval > 1 and policy.advance is not None:
        raise InputError(
            f"policy {policy.name} pauses residents, and prefill_schedule_interval holds prompts until decodes have "
            "run: together they may wait for ever; leave it at 1"
        )


def refuse_unschedulable(workload: Workload, config: EngineConfig, budget: int) -> None:
    """Requests that no iteration can prefill whole, in a mode that does not cut prompts."""
    never_computes_prompts = config.prompts_arrive_computed and config.preemption == "restart"
    if not config.formation.chunks_prompts and not never_computes_prompts:
        whole = workload.prompt_tokens + workload.output_tokens - 1  # a resumed request prefills all it had
        if whole.max() > budget:
            raise InputError(
                f"mode {config.mode} runs whole prompts, and request {int(whole.argmax())} may need {whole.max():,} "
                f"tokens in one iteration: set max_num_batched_tokens to at least that (it is {budget:,})"
            )
