"""`busy_shares`: the busy time of a run against the fluid bound, and where the rest of it went (model.md §9).

A run of N iterations is busy for c0·N + useful work + repeated work, exactly. No policy finishes the same requests
with less than the useful work, nor in fewer than N_min iterations: those that hold all the KV they need, compute all
their tokens within the token budget and give all their output tokens within the seats. So

    busy time = (useful work + c0·N_min) + repeated work + c0·(N - N_min) = fluid bound + recompute + under-use.

The work is exact: attention pairs of chunks add up to those of the prompt. A chunk before a prompt's last gives no
token: the KV that it reads and its cost per sequence count as repeated. A prompt's tokens that were in the prefix
cache when the request first entered are neither work nor memory that it needs. That is approximate in two ways, which
favour no policy: a hit on a block that no request held does take memory; and a request evicted in the middle of its
prompt may find more when it comes back, which is set off against the repeated work.

Where step times are a grid, no part of an iteration is fixed and none belongs to one request: the shares are NaN.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords
from fluidgate.fluid import RequestMix
from fluidgate.hardware import KvLaw

ROUNDING = 1e-9
"""A smaller share of the busy time is rounding in sums that should cancel."""


def busy_shares(records: RunRecords) -> dict[str, Any]:
    """`fluid_efficiency`, `recompute_loss` and `underuse_loss` of a run: shares of its busy time that add up to 1.

    The efficiency counts what finished requests needed. Where requests ran and did not finish, their work is neither
    needed nor repeated, so that the losses cannot be separated and are NaN. All three are NaN if the engine never ran,
    or if its step times are a grid.
    """
    busy_s, c0 = records.busy_s, records.hardware.step_time.c0
    if busy_s <= 0 or records.hardware.grid is not None:
        return {"fluid_efficiency": nan, "recompute_loss": nan, "underuse_loss": nan}
    iterations = records.iterations - records.empty_iterations
    work_s = busy_s - c0 * iterations
    useful_s, fewest = _needed(records)
    useful_s, fewest = min(useful_s, work_s), min(fewest, iterations)
    separable = bool((records.finished | np.isnan(records.first_scheduled_s)).all())
    repeated = (work_s - useful_s) / busy_s
    return {
        "fluid_efficiency": (useful_s + c0 * fewest) / busy_s,
        "recompute_loss": (repeated if repeated > ROUNDING else 0.0) if separable else nan,
        "underuse_loss": c0 * (iterations - fewest) / busy_s if separable else nan,
    }


def _needed(records: RunRecords) -> tuple[float, float]:
    """What the finished requests need under any policy: seconds of work, and iterations (N_min)."""
    done, load, config = records.finished, records.workload, records.config
    if not done.any():
        return 0.0, 0.0
    step_time = records.hardware.step_time
    arrived = config.prompts_arrive_computed
    lengths = load.prompt_tokens[done], load.output_tokens[done]
    mix = RequestMix(np.ones(int(done.sum())), *lengths, prompts_computed=arrived)
    cached = np.zeros_like(lengths[0]) if arrived else records.cached_tokens[done]  # what arrives does take memory
    found_s = step_time.duration_s(cached.sum(), 0, (cached * (cached + 1) // 2).sum(), 0) - step_time.c0
    blocks = _block_iterations(mix, records.hardware.law) - load.output_tokens[done] * _shared(cached, records)
    budget = config.token_budget(int((load.prompt_tokens + load.output_tokens).max()))
    if not config.formation.budget_counts_decodes:
        budget = max(budget, config.seats)
    fewest = max(
        float(blocks.sum()) / records.total_blocks,
        float(mix.tokens.sum() - cached.sum()) / budget,
        float(mix.iterations.sum()) / config.seats,
    )
    return float(mix.work_s(step_time).sum() - found_s), fewest


def _block_iterations(mix: RequestMix, law: KvLaw) -> FloatArray:
    """Blocks that each request holds, summed over its iterations; of several groups on average over where in a block it
    ends, shape (J,)."""
    if law.is_one_full_group:
        return mix.block_iterations(law.block_size).astype(float)
    return mix.memory_token_iterations(law) / law.block_size


def _shared(cached: IntArray, records: RunRecords) -> IntArray:
    """Blocks of what requests found in the prefix cache: others may have held them as well."""
    law = records.hardware.law
    if law.is_one_full_group:
        return cached // law.block_size
    return np.asarray(np.where(cached > 0, law.blocks(np.maximum(cached, 1)), 0))
