"""Length distributions: how long prompts and outputs are, alone and together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError

# Above every context length in use; it bounds the sum that gives a mixture's mean.
DEFAULT_HIGH_TOKENS = 131_072


class Lengths(Protocol):
    """A distribution of one length. Longer samples extend shorter ones drawn from the same state."""

    @property
    def mean(self) -> float:
        """Mean, tokens."""

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` lengths of at least 1 token, shape (n,)."""


class JointLengths(Protocol):
    """A distribution of a request's prompt length, output length and class."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
        """Prompt tokens, output tokens and class ids, each of shape (n,)."""


@dataclass(frozen=True)
class Fixed:
    """Every request has the same length.

    Attributes:
        tokens: the length.
    """

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.tokens != int(self.tokens):
            raise InputError(f"Fixed: tokens = {self.tokens} must be a whole number, at least 1")

    @property
    def mean(self) -> float:
        """Mean, tokens."""
        return float(self.tokens)

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` times the length, shape (n,)."""
        return np.full(n, self.tokens, np.int64)


@dataclass(frozen=True, eq=False)
class Discrete:
    """Given lengths with given weights.

    Attributes:
        values: lengths in tokens, shape (k,).
        weights: shape (k,), not negative; they need not add up to 1.
    """

    values: ArrayLike
    weights: ArrayLike

    def __post_init__(self) -> None:
        values, weights = _numbers("Discrete", self.values), _numbers("Discrete", self.weights)
        if values.shape != weights.shape or len(values) == 0:
            raise InputError(f"Discrete: {len(values)} values and {len(weights)} weights; give one weight per value")
        if (values < 1).any() or (values != np.floor(values)).any():
            raise InputError("Discrete: values must be whole numbers of tokens, at least 1")
        if (weights < 0).any() or weights.sum() == 0:
            raise InputError("Discrete: weights must not be negative, and not all 0")
        object.__setattr__(self, "values", values.astype(np.int64))
        object.__setattr__(self, "weights", weights / weights.sum())

    @property
    def mean(self) -> float:
        """Mean, tokens."""
        return float(np.dot(np.asarray(self.values), np.asarray(self.weights)))

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` lengths, shape (n,)."""
        return np.asarray(self.values)[_pick(np.asarray(self.weights), n, rng)]


class Empirical(Discrete):
    """Lengths drawn with replacement from observed ones."""

    def __init__(self, values: ArrayLike, counts: ArrayLike | None = None) -> None:
        """Observed lengths, shape (k,), and how often each was seen (once, if not given)."""
        observed = _numbers("Empirical", values)
        weights = np.ones(observed.shape) if counts is None else _numbers("Empirical", counts)
        if observed.shape != weights.shape or len(observed) == 0:
            raise InputError(f"Empirical: {len(observed)} values and {len(weights)} counts; give one count per value")
        unique, where = np.unique(observed, return_inverse=True)
        super().__init__(unique, np.bincount(where, weights))


@dataclass(frozen=True)
class LognormalMixture:
    """A mixture of lognormals, rounded up to whole tokens and clipped to [low, high].

    Attributes:
        weights: shape (k,), adding up to 1 within 1%; normalised.
        mu: means of the logarithm, shape (k,).
        sigma: standard deviations of the logarithm, shape (k,).
        low: smallest length, tokens.
        high: largest length, tokens.
    """

    weights: tuple[float, ...]
    mu: tuple[float, ...]
    sigma: tuple[float, ...]
    low: int = 1
    high: int = DEFAULT_HIGH_TOKENS

    def __post_init__(self) -> None:
        columns = {name: _numbers("LognormalMixture", getattr(self, name)) for name in ("weights", "mu", "sigma")}
        if len({len(column) for column in columns.values()}) > 1 or len(columns["mu"]) == 0:
            raise InputError("LognormalMixture: weights, mu and sigma must have one value per component")
        total = columns["weights"].sum()
        if (columns["weights"] < 0).any() or abs(total - 1) > 0.01:
            raise InputError(f"LognormalMixture: weights add up to {total:g}; they must add up to 1, none below 0")
        if (columns["sigma"] <= 0).any() or (abs(columns["mu"]) > 30).any() or (columns["sigma"] > 10).any():
            raise InputError("LognormalMixture: each sigma must be in (0, 10] and each mu in [-30, 30]")
        if not 1 <= self.low <= self.high:
            raise InputError(f"LognormalMixture: low = {self.low}, high = {self.high}; need 1 ≤ low ≤ high")
        columns["weights"] = columns["weights"] / total
        for name, column in columns.items():
            object.__setattr__(self, name, tuple(column.tolist()))

    @cached_property
    def mean(self) -> float:
        """Mean after rounding and clipping, tokens: low + Σ P(X > k) over k from low to high − 1."""
        log_k = np.log(np.arange(self.low, self.high))
        total = float(self.low)
        for weight, mu, sigma in zip(self.weights, self.mu, self.sigma, strict=True):
            total += weight * sum(map(math.erfc, ((log_k - mu) / (sigma * math.sqrt(2))).tolist())) / 2
        return total

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """`n` lengths, shape (n,)."""
        pick, normals = rng.spawn(2)
        return self.given(_pick(np.array(self.weights), n, pick), normals)

    def given(self, component: IntArray, rng: np.random.Generator) -> IntArray:
        """Lengths of requests whose components are known, shape as `component`."""
        log_x = np.array(self.mu)[component] + np.array(self.sigma)[component] * rng.standard_normal(len(component))
        # Clipped before the cast: an extreme draw does not fit an integer.
        return np.clip(np.ceil(np.exp(np.minimum(log_x, 40.0))), self.low, self.high).astype(np.int64)


@dataclass(frozen=True)
class Independent:
    """Prompt and output lengths drawn apart, from separate random streams.

    Attributes:
        prompt: distribution of the prompt length.
        output: distribution of the output length.
    """

    prompt: Lengths
    output: Lengths
    class_names: tuple[str, ...] = field(default=("all",), init=False)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
        """Prompt tokens, output tokens and class ids, each of shape (n,)."""
        prompts, outputs = rng.spawn(2)
        return self.prompt.sample(n, prompts), self.output.sample(n, outputs), np.zeros(n, np.int64)


@dataclass(frozen=True)
class JointMixture:
    """Two lognormal mixtures that share the component, which is what ties outputs to prompts.

    Attributes:
        prompt: mixture of prompt lengths.
        output: mixture of output lengths, with the same weights.
    """

    prompt: LognormalMixture
    output: LognormalMixture
    class_names: tuple[str, ...] = field(default=("all",), init=False)

    def __post_init__(self) -> None:
        if self.prompt.weights != self.output.weights:
            raise InputError("JointMixture: prompt and output share components, so their weights must be equal")

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[float, ...]], prompt_high: int, output_high: int) -> JointMixture:
        """From one row per component: weight, prompt mu, prompt sigma, output mu, output sigma."""
        w, prompt_mu, prompt_sigma, output_mu, output_sigma = zip(*rows, strict=True)
        return cls(
            LognormalMixture(w, prompt_mu, prompt_sigma, high=prompt_high),
            LognormalMixture(w, output_mu, output_sigma, high=output_high),
        )

    def sample(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
        """Prompt tokens, output tokens and class ids, each of shape (n,)."""
        pick, prompts, outputs = rng.spawn(3)
        component = _pick(np.array(self.prompt.weights), n, pick)
        return (
            self.prompt.given(component, prompts),
            self.output.given(component, outputs),
            np.zeros(n, np.int64),
        )


@dataclass(frozen=True)
class Types:
    """Requests of a few exact types, each a class: the paper's setting.

    Attributes:
        prompt_tokens: prompt length per type, shape (k,).
        output_tokens: output length per type, shape (k,).
        weights: share of each type, shape (k,); they need not add up to 1.
        class_names: one name per type.
    """

    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    weights: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({len(c) for c in (self.prompt_tokens, self.output_tokens, self.weights, self.class_names)}) != 1:
            raise InputError("Types: give one prompt length, output length, weight and name per type")
        Discrete(self.prompt_tokens, self.weights)
        Discrete(self.output_tokens, self.weights)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
        """Prompt tokens, output tokens and class ids, each of shape (n,)."""
        kind = _pick(np.array(self.weights) / sum(self.weights), n, rng)
        return np.array(self.prompt_tokens)[kind], np.array(self.output_tokens)[kind], kind


def max_entropy(cuts: Sequence[int], shares: Sequence[float], mean: float) -> Discrete:
    """The distribution of largest entropy on 1..cuts[-1] with given shares between cuts and a given mean.

    Used where a paper prints quantiles and a mean but no data. It is share_j·exp(βk)/Σexp(βk) inside part j.

    Args:
        cuts: rising upper ends of the parts, tokens; part j is (cuts[j-1], cuts[j]], the first starts at 1.
        shares: probability of each part, adding up to 1.
        mean: the mean to meet, tokens.

    Errors: InputError when no such distribution exists.
    """
    edges = np.concatenate(([0], np.asarray(cuts, np.int64)))
    if len(shares) != len(cuts) or (np.diff(edges) < 1).any() or abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
        raise InputError("max_entropy: cuts must rise from 1 and have one share each, the shares adding up to 1")
    values = np.arange(1, edges[-1] + 1)
    part = np.repeat(np.arange(len(cuts)), np.diff(edges))

    def weights(tilt: float) -> FloatArray:
        raw = np.exp(tilt * (values - edges[np.where(tilt > 0, part + 1, part)]))
        return np.asarray(shares)[part] * raw / np.bincount(part, raw)[part]

    low, high = -30.0, 30.0
    if not values @ weights(low) < mean < values @ weights(high):
        raise InputError(f"max_entropy: no distribution with these shares has mean {mean}; change the mean or the cuts")
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if values @ weights(middle) < mean else (low, middle)
    return Discrete(values, weights(low))


def survival(values: ArrayLike) -> FloatArray:
    """Survival function of observed lengths: S[s] = P(length > s), s = 0..max, shape (max + 1,); S[max] = 0.

    Errors: InputError for an empty array or lengths that are not whole numbers, at least 1.
    """
    observed = _numbers("survival", values)
    if len(observed) == 0 or (observed < 1).any() or (observed != np.floor(observed)).any():
        raise InputError("survival: lengths must be whole numbers of tokens, at least 1, and at least one of them")
    counts = np.bincount(observed.astype(np.int64))
    return (len(observed) - np.cumsum(counts)) / len(observed)


def _pick(probabilities: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """Indices drawn by inversion, one uniform each, so that longer samples extend shorter ones."""
    bounds = np.cumsum(probabilities)
    return np.searchsorted(bounds / bounds[-1], rng.random(n), side="right").astype(np.int64)


def _numbers(owner: str, values: Any) -> FloatArray:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: {values!r:.80} is not a list of numbers") from error
    if array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(f"{owner}: give a flat list of finite numbers")
    return array
