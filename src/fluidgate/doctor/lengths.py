"""The law of request lengths that vLLM's histograms leave open, and the mixes that bracket it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.doctor.histogram import Histogram
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix
from fluidgate.workload import FloatArray, IntArray

OPEN_BUCKET = 2.5
"""How far the bucket without an upper edge is taken to reach, times its lower edge: vLLM's edges rise by 2 or 2.5."""

POINTS = 8
"""Lengths that stand for one bucket."""


def least_spread(counts: FloatArray, low: FloatArray, high: FloatArray, mean: float) -> tuple[FloatArray, FloatArray]:
    """The law (values, weights) of least second moment with these bucket counts and this mean.

    A convex problem whose optimum moves every bucket to one level m, as far as its edges let it.
    """
    levels = np.concatenate([low, high])
    levels.sort()
    means = [_mean(np.clip(level, low, high), counts) for level in levels]
    at = min(max(int(np.searchsorted(means, mean)), 1), len(levels) - 1)
    below, above = means[at - 1], means[at]
    share = 0.0 if above <= below else min(max((mean - below) / (above - below), 0.0), 1.0)
    return np.clip(levels[at - 1] + share * (levels[at] - levels[at - 1]), low, high), counts


def most_spread(counts: FloatArray, low: FloatArray, high: FloatArray, mean: float) -> tuple[FloatArray, FloatArray]:
    """The law (values, weights) of largest second moment with these bucket counts and this mean.

    A linear problem: all values lie on edges, and the mean is spent where it buys most, on the largest bucket first.
    """
    left = mean * counts.sum() - float(counts @ low)
    at_high = np.zeros_like(counts)
    for k in range(len(counts) - 1, -1, -1):
        cost = counts[k] * (high[k] - low[k])
        share = 1.0 if cost <= left else max(left, 0.0) / cost
        at_high[k] = share * counts[k]
        left -= share * cost
    return np.concatenate([low, high]), np.concatenate([counts - at_high, at_high])


def even_spread(counts: FloatArray, low: FloatArray, high: FloatArray, mean: float) -> tuple[FloatArray, FloatArray]:
    """A law (values, weights) between the two: each bucket spread by one power law, bent until the mean is met."""
    from scipy.optimize import brentq

    at = (np.arange(POINTS) + 0.5) / POINTS
    weights = np.repeat(counts / POINTS, POINTS)

    def values(bend: float) -> FloatArray:
        spread: FloatArray = (low[:, None] + (high - low)[:, None] * at ** np.exp(bend)).ravel()
        return spread

    def excess(bend: float) -> float:
        return _mean(values(bend), weights) - mean

    ends = (-8.0, 8.0)
    if excess(ends[0]) <= 0.0 or excess(ends[1]) >= 0.0:  # a mean on the edges themselves
        return values(ends[0] if excess(ends[0]) <= 0.0 else ends[1]), weights
    return values(brentq(excess, *ends)), weights


def _mean(values: FloatArray, weights: FloatArray) -> float:
    return float(values @ weights) / float(weights.sum())


_LAWS = {"least": least_spread, "even": even_spread, "most": most_spread}


@dataclass(frozen=True, eq=False)
class LengthLaw:
    """Histograms of prompt and output lengths of the same requests.

    Buckets and means are known exactly, where in its bucket a length lies is not: `mix` gives the laws of least and
    largest second moment that they allow, between which every number of the plan lies, and one in between. How
    prompts and outputs go together is not in the metrics: they are taken as independent.

    Attributes:
        prompt, output: lengths in tokens; both hold values.
        most_tokens: the KV memory, tokens; longer requests cannot have been.
    """

    prompt: Histogram
    output: Histogram
    most_tokens: float

    def mix(self, spread: str, rate: float) -> RequestMix:
        """The mix at `rate` req/s; `spread` is "least", "even" or "most".

        Raises:
            InputError: a mean outside its buckets, or no pair of lengths that fits the KV memory.
        """
        prompts, prompt_shares = self._law(self.prompt, spread, "prompt")
        outputs, output_shares = self._law(self.output, spread, "output")
        pairs = np.outer(prompt_shares, output_shares).ravel()
        length, generated = np.repeat(prompts, len(outputs)), np.tile(outputs, len(prompts))
        fits = (pairs > 0) & (length + generated - 1 <= self.most_tokens)
        if not fits.any():
            raise InputError(
                f"requests of {self.prompt.mean:,.0f} prompt and {self.output.mean:,.0f} output tokens do not fit the "
                f"{self.most_tokens:,.0f} tokens of KV memory; check --num-gpu-blocks and --block-size"
            )
        kept = pairs[fits] / pairs[fits].sum()
        return RequestMix(kept * rate, length[fits], generated[fits])

    def _law(self, histogram: Histogram, spread: str, what: str) -> tuple[IntArray, FloatArray]:
        seen = histogram.counts > 0
        last = histogram.lower_edges[-1]
        high = np.minimum(np.where(np.isfinite(histogram.edges), histogram.edges, OPEN_BUCKET * last), self.most_tokens)
        low = np.minimum(np.floor(histogram.lower_edges) + (histogram.lower_edges > 0), high)
        counts, low, high = histogram.counts[seen], low[seen], high[seen]
        least, most = _mean(low, counts), _mean(high, counts)
        if not least * (1 - 1e-9) <= histogram.mean <= most * (1 + 1e-9) + 1e-9:
            raise InputError(
                f"{what} lengths: a mean of {histogram.mean:,.6g} tokens does not lie in their buckets, which allow "
                f"{least:,.6g} to {most:,.6g}; check the KV memory, and that the page is vLLM's own"
            )
        values, weights = _LAWS[spread](counts, low, high, histogram.mean)
        whole = np.maximum(np.rint(values), 1).astype(np.int64)
        lengths, at = np.unique(whole, return_inverse=True)
        return lengths, np.bincount(at, weights).astype(np.float64)
