"""Whether the KV cache can be as large as stated: what is held of it against what the running requests can hold.

A page has the length histograms of requests that finished, and two gauges, requests that run and the share of KV
blocks in use. Sizes are wrong where vLLM publishes another block size than the engine's (older versions, for models
with Mamba layers), where the blocks are shared by several groups, or where they were typed in wrongly; then the three
contradict each other. Each bound leaves room for what the page does not know:

- who stays longer is seen more often, so lengths of residents are weighted with their outputs; how prompts and outputs
  go together is unknown, so they are joined in the order that gives the least or the most;
- a few residents are not the mean: a margin for samples of their number, exceeded once in 1,000 times;
- traffic changes: residents may hold half of what is expected, or less where the prompts that were counted and have
  not finished are shorter;
- residents may be longer than any that finished, but whatever they hold was counted when it was computed, and is not
  yet among the lengths of those that finished; a prompt that is being computed comes on top. Where nothing is left
  over, the page was put together from parts: then longer ones may be as frequent as they can be without one among
  those that finished, and as long as the histogram's last bucket reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.lengths import OPEN_BUCKET, even_spread, most_spread
from fluidgate.vllm_metrics.histogram import Histogram

MIN_REQUESTS = 30
"""With fewer finished the histograms say little of those that run."""

RARE = log(1000.0)
"""−ln of the chance that a bound is wrong by."""

CHANGE = 2.0
"""Residents may be shorter than those that finished by this factor, on average."""

PARTLY_FULL = 2.0
"""Blocks of a resident that may be empty in part: its last, and one for tokens to come."""

MOST_SHARED = 0.5
"""Beyond this share of prompts that the prefix cache spares, nothing is said of the least that residents hold."""

Law = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Held:
    """KV that the requests of the last look hold, over all engines, tokens.

    Attributes:
        running: requests.
        kv_use: share of the blocks in use.
        stated: their tokens in the cache's stated size.
        least, most: the bounds; 0 and infinite where there is none.
    """

    running: float
    kv_use: float
    stated: float
    least: float
    most: float

    @property
    def contradicts(self) -> bool:
        """Whether the stated size cannot be."""
        return not self.least <= self.stated <= self.most


def held_of(facts: Facts) -> Held | None:
    """What residents hold, by the stated size and by their lengths; None where the page does not say enough."""
    last = facts.moments[-facts.engines :] if facts.moments else ()
    running = sum(moment.running for moment in last)
    prompt, output = facts.histogram("request_prompt_tokens"), facts.histogram("request_generation_tokens")
    if facts.kv_tokens is None or prompt is None or output is None or running < 1.0:
        return None
    if min(prompt.count, output.count) < MIN_REQUESTS or not prompt.total or not output.total:
        return None
    if not (_whole(prompt) and _whole(output)):  # the law of lengths refuses it with a sentence
        return None
    kv_use = sum(moment.kv_use for moment in last)
    if kv_use == 0.0:  # of an engine that keeps no account of it
        return None
    return Held(
        running,
        kv_use / len(last),
        kv_use * facts.kv_tokens,
        _least(facts, running, prompt, output),
        _most(facts, running, prompt, output),
    )


def _least(facts: Facts, running: float, prompt: Histogram, output: Histogram) -> float:
    """E[S] − √(2n·E[X²]·ln(1/δ)) for n residents: the lower tail of a sum of amounts of at least 0."""
    shared = _shared(facts)
    if shared is None or shared > MOST_SHARED:
        return 0.0
    lengths, outputs, shares = _joined(_law(prompt, even_spread), _law(output, even_spread), rising=False)
    if facts.sliding_window is not None:
        lengths = np.minimum(lengths, facts.sliding_window)
    stay = shares * outputs / (shares @ outputs)
    margin = sqrt(2.0 * running * float(stay @ lengths**2) * RARE)
    expected = max(0.0, running * float(stay @ lengths) - margin) / CHANGE
    counted = facts.unfinished_prompt_tokens or expected  # nothing is left over on a page that somebody put together
    return (1.0 - shared) * min(expected, counted)


def _shared(facts: Facts) -> float | None:
    """Share of the prompts that residents may share with each other; None if unknown."""
    if facts.prefix_caching is False:
        return 0.0
    return min(1.0, facts.prefix_hits / facts.prefix_queries) if facts.prefix_queries else None


def _most(facts: Facts, running: float, prompt: Histogram, output: Histogram) -> float:
    """What was computed and has not finished; on a page that does not tell, what residents can hold by the law."""
    if output.mean < 2.0:  # prefilled for another server, which still has to fetch it: those have finished
        return inf
    longest = OPEN_BUCKET * max(float(histogram.edges[-2]) for histogram in (prompt, output))  # up to max_model_len
    tokens = facts.unfinished_tokens + longest if facts.unfinished_tokens else _likely(running, prompt, output, longest)
    return tokens + PARTLY_FULL * running * (facts.block_size or 1)


def _likely(running: float, prompt: Histogram, output: Histogram, longest: float) -> float:
    """Bernstein's bound, E[S] + √(2n·E[X²]·ln(1/δ)) + b·ln(1/δ)/3 for n residents of at most b tokens."""
    lengths, outputs, shares = _joined(_law(prompt, most_spread), _law(output, most_spread), rising=True)
    weight = float(shares @ outputs)
    mean = float((shares * outputs) @ (lengths + (outputs + 1.0) / 2.0)) / weight
    unseen = min(1.0, RARE / min(prompt.count, output.count))
    grown = np.linspace(1.0, longest, 64)
    amounts = (1.0 - unseen) * weight * mean + unseen * grown * (longest - grown / 2.0)
    mean = max(mean, float((amounts / ((1.0 - unseen) * weight + unseen * grown)).max()))
    margin = sqrt(2.0 * running * mean * longest * RARE) + longest * RARE / 3.0
    return min(running * longest, running * mean + margin)


def _buckets(histogram: Histogram) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Counts, lower and upper ends of the buckets that hold values; the last one ends as far as it may reach."""
    held = histogram.counts > 0
    high = np.where(np.isfinite(histogram.edges), histogram.edges, OPEN_BUCKET * histogram.lower_edges[-1])[held]
    return histogram.counts[held], np.minimum(histogram.lower_edges[held] + 1.0, high), high


def _whole(histogram: Histogram) -> bool:
    """Whether the mean lies in the buckets."""
    counts, low, high = _buckets(histogram)
    return bool(low.min() > 0.0 and counts @ low <= histogram.total * (1.0 + 1e-9) <= counts @ high * (1.0 + 2e-9))


def _law(histogram: Histogram, spread: Callable[[FloatArray, FloatArray, FloatArray, float], Law]) -> Law:
    """A law of these bucket counts and this mean, as far as the buckets reach."""
    values, weights = spread(*_buckets(histogram), histogram.mean)
    return values[weights > 0], weights[weights > 0] / weights.sum()


def _joined(prompts: Law, outputs: Law, *, rising: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Prompts, outputs and shares of pairs: long prompts with long outputs, or with short ones."""
    p, q = np.argsort(prompts[0]), np.argsort(outputs[0])
    p = p if rising else p[::-1]
    up_to_p, up_to_q = np.cumsum(prompts[1][p]), np.cumsum(outputs[1][q])
    ends = np.union1d(up_to_p, up_to_q)
    middles = ends - np.diff(ends, prepend=0.0) / 2.0
    at_p = np.minimum(np.searchsorted(up_to_p, middles), len(p) - 1)
    at_q = np.minimum(np.searchsorted(up_to_q, middles), len(q) - 1)
    return prompts[0][p][at_p], outputs[0][q][at_q], np.diff(ends, prepend=0.0)
