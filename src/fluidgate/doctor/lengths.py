"""The law of request lengths that vLLM's histograms leave open, and the mixes that bracket it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix
from fluidgate.vllm_metrics.histogram import Histogram

OPEN_BUCKET = 2.5
"""How far the bucket without an upper edge is taken to reach, times its lower edge: vLLM's edges rise by 2 or 2.5."""

POINTS = 9
"""Lengths that stand for one bucket, its ends among them."""


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
        spent = min(cost, max(left, 0.0))
        at_high[k] = counts[k] * spent / cost if cost else 0.0
        left -= spent
    return np.concatenate([low, high]), np.concatenate([counts - at_high, at_high])


def even_spread(counts: FloatArray, low: FloatArray, high: FloatArray, mean: float) -> tuple[FloatArray, FloatArray]:
    """The law (values, weights) of largest entropy on a grid in every bucket, with these bucket counts and this mean.

    It is exponential within each bucket, with one exponent for all.
    """
    from scipy.optimize import brentq

    values = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, POINTS)

    def weights(exponent: float) -> FloatArray:
        powers = exponent * values
        shares = np.exp(powers - powers.max(axis=1, keepdims=True))
        spread: FloatArray = counts[:, None] * shares / shares.sum(axis=1, keepdims=True)
        return spread

    def excess(exponent: float) -> float:
        return _mean(values.ravel(), weights(exponent).ravel()) - mean

    steepest = 1e3  # per token: all of a bucket at one edge
    if excess(-steepest) >= 0.0:
        exponent = -steepest
    elif excess(steepest) <= 0.0:
        exponent = steepest
    else:
        exponent = brentq(excess, -steepest, steepest)
    return values.ravel(), weights(exponent).ravel()


def _mean(values: FloatArray, weights: FloatArray) -> float:
    return float(values @ weights) / float(weights.sum())


_LAWS = {"least": least_spread, "even": even_spread, "most": most_spread}


@dataclass(frozen=True, eq=False)
class LengthLaw:
    """Histograms of prompt and output lengths of the same requests.

    Buckets and means are known exactly, but not where in its bucket a length lies: `mix` gives the laws of least and
    largest second moment that they allow, between which every number of the plan lies, and that of largest entropy. How
    prompts and outputs go together is not in the metrics: they are taken as independent.

    Attributes:
        prompt, output: lengths in tokens; both hold values.
        most_tokens: the KV memory, tokens; no request can have been longer.
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
        shares = pairs[fits] / pairs[fits].sum()
        return RequestMix(shares * rate, length[fits], generated[fits])

    def _law(self, histogram: Histogram, spread: str, what: str) -> tuple[IntArray, FloatArray]:
        occupied = histogram.counts > 0
        last = histogram.lower_edges[-1]
        high = np.minimum(np.where(np.isfinite(histogram.edges), histogram.edges, OPEN_BUCKET * last), self.most_tokens)
        low = np.minimum(np.floor(histogram.lower_edges) + (histogram.lower_edges > 0), high)
        counts, low, high = histogram.counts[occupied], low[occupied], high[occupied]
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
