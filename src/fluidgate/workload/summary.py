"""Facts about a workload, for `fluidgate trace info`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.workload.core import Workload

WINDOWS_S = (1, 10, 60)
MIN_WINDOWS = 10
"""Fewer windows say nothing about a variance."""


def info(workload: Workload) -> dict[str, Any]:
    """Summary facts as plain numbers, ready for JSON; None where a fact is not defined.

    Keys: name, requests, duration_s, rate (req/s), gap_cv (coefficient of variation of the gaps),
    dispersion_1s/_10s/_60s (variance ÷ mean of counts; 1 for Poisson), prompt_tokens and output_tokens (each
    with mean, p50, p90, p99, max), length_correlation, repeated_prefix_share (blocks seen before ÷ blocks;
    None without prefix ids), and classes (rows of name, requests, share, rate, mean_prompt_tokens,
    mean_output_tokens).
    """
    w = workload
    finite_rate = w.rate if np.isfinite(w.rate) else None
    blocks = len(w.prefix_ids)
    return {
        "name": w.name,
        "requests": len(w),
        "duration_s": w.duration_s,
        "rate": finite_rate,
        "gap_cv": _gap_cv(w.arrival_s),
        **{f"dispersion_{window}s": dispersion(w.arrival_s, window) for window in WINDOWS_S},
        "prompt_tokens": _lengths(w.prompt_tokens),
        "output_tokens": _lengths(w.output_tokens),
        "length_correlation": _correlation(w.prompt_tokens, w.output_tokens),
        "repeated_prefix_share": 1 - len(np.unique(w.prefix_ids)) / blocks if blocks else None,
        "classes": [_class_row(w, k, finite_rate) for k in range(len(w.class_names))],
    }


def dispersion(arrival_s: FloatArray, window_s: float) -> float | None:
    """Index of dispersion: variance ÷ mean of the arrivals per window; None with under 10 windows."""
    windows = int((arrival_s[-1] - arrival_s[0]) / window_s)
    if windows < MIN_WINDOWS:
        return None
    index = ((arrival_s - arrival_s[0]) / window_s).astype(np.int64)
    index = index[index < windows]
    few = windows <= len(arrival_s)  # else most windows have no arrivals, and are not stored
    counts = np.bincount(index) if few else np.unique(index, return_counts=True)[1]
    mean = counts.sum() / windows
    return float((np.square(counts - mean).sum() + (windows - len(counts)) * mean**2) / windows / mean)


def _gap_cv(arrival_s: FloatArray) -> float | None:
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else None


def _lengths(tokens: IntArray) -> dict[str, float]:
    p50, p90, p99 = np.quantile(tokens, (0.5, 0.9, 0.99)).tolist()
    return {"mean": float(tokens.mean()), "p50": p50, "p90": p90, "p99": p99, "max": int(tokens.max())}


def _correlation(prompt: IntArray, output: IntArray) -> float | None:
    if prompt.std() == 0 or output.std() == 0:
        return None
    return float(np.corrcoef(prompt, output)[0, 1])


def _class_row(w: Workload, k: int, rate: float | None) -> dict[str, Any]:
    mine = w.class_id == k
    count = int(mine.sum())
    return {
        "name": w.class_names[k],
        "requests": count,
        "share": count / len(w),
        "rate": rate * count / len(w) if rate is not None else None,
        "mean_prompt_tokens": float(w.prompt_tokens[mine].mean()) if count else None,
        "mean_output_tokens": float(w.output_tokens[mine].mean()) if count else None,
    }
