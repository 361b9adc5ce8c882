"""Facts of several servers as those of one: arrivals add up, shares of KV never do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fluidgate.doctor.facts import Facts, GateFacts
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.histogram import Histogram
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.words import shown

ALIKE = 0.02
"""Sizes of KV caches may differ by this share: GPUs of one kind differ a little in what they have free."""


def difference(parts: Sequence[Facts]) -> str | None:
    """Why servers cannot be looked at as one, in words; None where they can.

    Their traffic may be divided in any way, but a model, a KV cache or a limit that differs makes other servers.
    """
    sizes = [part.kv_tokens for part in parts if part.kv_tokens is not None]
    if sizes and (len(sizes) < len(parts) or max(sizes) > (1.0 + ALIKE) * min(sizes)):
        return "the sizes of their KV caches differ"
    told: dict[str, set[Any]] = {
        "models": {part.model for part in parts},
        "limits": {(part.max_num_seqs, part.max_num_batched_tokens) for part in parts},
        "dtypes of the KV cache": {part.kv_cache_dtype for part in parts},
        "block sizes": {part.block_size for part in parts},
        "schedulers": {part.gate is not None for part in parts},
        "releases of vLLM": {part.release for part in parts},
    }
    for what, values in told.items():
        if len(values) > 1:
            return f"their {what} differ"
    return None


def pool(parts: Sequence[Facts], source: str) -> Facts:
    """Several servers that are alike as one with the engines of all.

    Moments stay those of each engine, so that no share of a KV cache is added to another. Rates of arrivals are added,
    over the longest of the times that the parts cover.
    """
    first = parts[0]
    windows = [part.window_s for part in parts if part.window_s]
    window_s = max(windows) if len(windows) == len(parts) else None
    arrivals = _sum([part.arrivals for part in parts])
    if window_s is not None and arrivals is not None:
        arrivals = window_s * sum(part.rate or 0.0 for part in parts)
    sizes = [part.kv_tokens for part in parts if part.kv_tokens is not None]
    reasons = {reason for part in parts for reason in part.failed}
    return replace(
        first,
        source=source,
        moments=_moments(parts),
        stands_still=all(part.stands_still for part in parts),
        window_s=window_s,
        arrivals=arrivals,
        histograms=_histograms(parts),
        kv_tokens=min(sizes, default=None),
        num_gpu_blocks=min((part.num_gpu_blocks for part in parts if part.num_gpu_blocks), default=None),
        failed={reason: sum(part.failed.get(reason, 0.0) for part in parts) for reason in reasons},
        tokens_per_step=sum(part.tokens_per_step for part in parts) / len(parts),
        servers=len(parts),
        server="",
        gate=_gate(parts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        finished=_sum([part.finished for part in parts]),
        preemptions=_sum([part.preemptions for part in parts]),
        computed_tokens=_sum([part.computed_tokens for part in parts]),
        prefix_queries=sum(part.prefix_queries for part in parts),
        prefix_hits=sum(part.prefix_hits for part in parts),
        unfinished_prompt_tokens=sum(part.unfinished_prompt_tokens for part in parts),
        unfinished_tokens=sum(part.unfinished_tokens for part in parts),
        abandoned=sum(part.abandoned for part in parts),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _moments(parts: Sequence[Facts]) -> tuple[Moment, ...]:
    """The last look of every server comes last, as with one server of several engines."""
    named = [
        [replace(moment, engine=f"{at}/{moment.engine}") for moment in part.moments] for at, part in enumerate(parts)
    ]
    earlier = [moment for part, own in zip(parts, named, strict=True) for moment in own[: len(own) - part.engines]]
    last = [moment for part, own in zip(parts, named, strict=True) for moment in own[len(own) - part.engines :]]
    return (*earlier, *last)


def _histograms(parts: Sequence[Facts]) -> dict[str, Histogram]:
    """Those that all servers have with the same buckets."""
    pooled: dict[str, Histogram] = {}
    for name, histogram in parts[0].histograms.items():
        try:
            for part in parts[1:]:
                histogram = histogram.plus(part.histograms[name], shown(name))
        except (KeyError, InputError):  # buckets go up to the longest request that a server takes
            continue
        pooled[name] = histogram
    return pooled


def _gate(parts: Sequence[Facts]) -> GateFacts | None:
    gates = [part.gate for part in parts if part.gate is not None]
    if not gates:
        return None
    return GateFacts(
        fallbacks=sum(gate.fallbacks for gate in gates),
        held=sum(gate.held for gate in gates),
        computed_tokens=sum(gate.computed_tokens for gate in gates),
        recomputed_tokens=sum(gate.recomputed_tokens for gate in gates),
        longest_silence_s=max(gate.longest_silence_s for gate in gates),
        predicted_peak=max(gate.predicted_peak for gate in gates),
    )
