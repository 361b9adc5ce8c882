"""Segments of the decode: where Nested WAIT cuts the life of a request whose output length it cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware.kv_law import KvLaw

PromptBound = Literal["mean", "max"]
MAX_SEGMENTS, MAX_EXACT_LENGTHS = 10, 16


@dataclass(frozen=True, eq=False)
class Segments:
    """L segments of stages; a request that outlives segment k enters segment k + 1 (model.md §4).

    Stage 0 is the prefill, stage s the s-th iteration after it, in either convention of `RequestMix`.

    Attributes:
        output_edges: cut points r_1 < ... < r_L, shape (L,), output tokens; the last is the largest output.
        share: Λ_k/Λ, the share of requests that enter segment k, shape (L,); the first is 1.
        survival: p_k = Λ_k/Λ_{k-1}, shape (L,); the first is 1 (every request enters).
        stages: δ_k, stages per segment, shape (L,).
        mean_stage: s̄_k, the mean stage of each segment, shape (L,).
        prompt_tokens: l_k of the requests that enter segment k, their mean or their largest, shape (L,).
        attention_pairs: prefill pairs of a request, with the same bound.
        memory_tokens: what a resident of each segment holds of the pool on average, shape (L,), in whole blocks: half a
            block for rounding, or a whole one for "max".
        boundary_tokens: the same at the last stage before each segment, shape (L,); the first is never used.
        prompt_bound: "max" where a guarantee is wanted, "mean" for thresholds that work on average.
    """

    output_edges: IntArray
    share: FloatArray
    survival: FloatArray
    stages: FloatArray
    mean_stage: FloatArray
    prompt_tokens: FloatArray
    attention_pairs: float
    memory_tokens: FloatArray
    boundary_tokens: FloatArray
    prompt_bound: PromptBound

    def __len__(self) -> int:
        return len(self.output_edges)


def cut_points(mix: RequestMix, count: int) -> IntArray:
    """At most `count` cut points of equal shares of requests, the last at the largest output, tokens."""
    law = mix.by_output
    return np.union1d(law.quantiles(np.arange(1, count) / count), law.lengths[-1:])


def candidate_cuts(mix: RequestMix) -> list[IntArray]:
    """The ways to cut a decode that are tried: 1 to 10 segments of equal shares, and few distinct outputs one each."""
    cuts = {tuple(cut_points(mix, count).tolist()) for count in range(1, MAX_SEGMENTS + 1)}
    if len(mix.by_output.lengths) <= MAX_EXACT_LENGTHS:
        cuts.add(tuple(mix.by_output.lengths.tolist()))
    return [np.array(cut) for cut in sorted(cuts)]


def segments(mix: RequestMix, cuts: IntArray, kv_law: KvLaw, prompt_bound: PromptBound) -> Segments:
    """The segments of `mix` between `cuts`.

    Raises:
        InputError: the cuts do not rise, do not end at the largest output, or none finishes before one.
    """
    cuts = np.asarray(cuts, dtype=np.int64)
    law = mix.by_output
    last = int(law.lengths[-1])
    if len(cuts) == 0 or np.any(np.diff(cuts) <= 0) or cuts[-1] != last:
        raise InputError(f"cut points {cuts.tolist()} must rise and end at {last}, the largest output")
    # The first length that enters each segment: those above the cut before it.
    enters = np.concatenate(([0], np.searchsorted(law.lengths, cuts[:-1], side="right")))
    rate = _from_there_on(law.rate, np.add)[enters]
    share = rate / rate[0]
    survival = np.concatenate(([1.0], share[1:] / share[:-1]))
    if np.any(survival[1:] >= 1.0):
        raise InputError(f"cut points {cuts.tolist()}: some segment ends without a request finishing; merge it")
    last_stage = cuts.astype(np.float64) - (1.0 if mix.prefill_emits_token else 0.0)
    before = np.concatenate(([0.0], last_stage[:-1]))
    first_stage = np.concatenate(([0.0], last_stage[:-1] + 1.0))
    worst = prompt_bound == "max"
    largest = _from_there_on(law.prompt_max, np.maximum)[enters]
    mean = _from_there_on(law.prompt_rate, np.add)[enters] / rate
    prompt = largest if worst else mean
    stages = last_stage - first_stage + 1.0
    more = kv_law.rounding_tokens if worst else 0.0
    pairs = mix.attention_pairs
    return Segments(
        output_edges=cuts,
        share=share,
        survival=survival,
        stages=stages,
        mean_stage=0.5 * (first_stage + last_stage),
        prompt_tokens=prompt,
        attention_pairs=float(pairs.max()) if worst else mix.mean(pairs),
        memory_tokens=kv_law.memory(prompt + first_stage, stages)[0] / stages + more,
        boundary_tokens=kv_law.memory(prompt + before, np.ones_like(before))[0] + more,
        prompt_bound=prompt_bound,
    )


def _from_there_on(values: FloatArray, accumulate: np.ufunc) -> FloatArray:
    """The sum (or maximum) of each value and all after it."""
    result: FloatArray = accumulate.accumulate(values[::-1])[::-1]
    return result
