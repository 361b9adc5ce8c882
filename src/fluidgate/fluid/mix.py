"""`RequestMix`: what one second of traffic asks for. The law of request lengths, and the work it brings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_RATE, MIN_RATE, check_number
from fluidgate.errors import InputError
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw
from fluidgate.workload.core import Workload, longer_than


@dataclass(frozen=True, eq=False)
class RequestMix:
    """Request types and their arrival rates.

    Two conventions for the life of a request of l prompt and o output tokens. The engine's: the prefill
    emits the first token, so it takes o iterations and ends the i-th with l + i - 1 KV tokens. The paper's
    (arXiv 2504.11320): stage 0 is the prefill, stages 1..o are decodes, so it takes o + 1 iterations and
    holds l + s KV tokens at stage s. The paper's o is the engine's o - 1. Prompts are prefilled in one
    iteration; a chunked prompt stays a few iterations longer, which is left out.

    Attributes:
        rate: arrival rates, shape (J,), requests per second, above 0.
        prompt_tokens: prompt lengths l, shape (J,), at least 1.
        output_tokens: output lengths o, shape (J,), at least 1 (the paper's convention: at least 0).
        prefill_emits_token: True for the engine's convention, False for the paper's.
        prompts_computed: prompts come with their KV, so that every iteration computes one token, the first one as well.
        refused: what came as well and was refused (`within`); None: nothing.
    """

    rate: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    prefill_emits_token: bool = True
    refused: RequestMix | None = None
    prompts_computed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _column(self.rate, np.float64, "rate"))
        for name in ("prompt_tokens", "output_tokens"):
            object.__setattr__(self, name, _column(getattr(self, name), np.int64, name))
        sizes = {len(self.rate), len(self.prompt_tokens), len(self.output_tokens)}
        if len(sizes) != 1 or 0 in sizes:
            raise InputError(
                f"request mix: {len(self.rate)} rates, {len(self.prompt_tokens)} prompt lengths and "
                f"{len(self.output_tokens)} output lengths; give one of each per type, and at least one type"
            )
        _refuse_where(~(np.isfinite(self.rate) & (self.rate > 0)), self.rate, "rate", "a number above 0 req/s")
        _refuse_where(self.prompt_tokens < 1, self.prompt_tokens, "prompt_tokens", "at least 1 token")
        least = 1 if self.prefill_emits_token else 0
        _refuse_where(self.output_tokens < least, self.output_tokens, "output_tokens", f"at least {least}")

    @classmethod
    def from_workload(cls, workload: Workload, rate: float | None = None) -> RequestMix:
        """The exact empirical law of (prompt, output) pairs, at `rate` (default: the workload's own).

        Raises:
            InputError: the workload has no rate of its own (all its requests arrive at once).
        """
        if rate is None and not np.isfinite(workload.rate):
            raise InputError(f"{workload.name}: all requests arrive at once, so there is no rate; give one")
        total = workload.rate if rate is None else rate
        _refuse_rate(total)
        span = int(workload.output_tokens.max()) + 1
        pairs, counts = np.unique(workload.prompt_tokens * span + workload.output_tokens, return_counts=True)
        each = float(total) / len(workload)
        refused = None
        if workload.refused is not None:
            refused = cls.from_workload(workload.refused, each * len(workload.refused))
        return cls(counts * each, pairs // span, pairs % span, refused=refused)

    def within(self, max_model_len: int | None) -> RequestMix:
        """The types that a model takes whose longest request has `max_model_len` tokens; see `Workload.within`.

        Raises:
            InputError: it takes none of them.
        """
        too_long = longer_than(max_model_len, self.prompt_tokens, self.output_tokens, "request mix")
        if not too_long.any():
            return self
        taken, refused = (
            replace(
                self,
                rate=self.rate[k],
                prompt_tokens=self.prompt_tokens[k],
                output_tokens=self.output_tokens[k],
                refused=None,
            )
            for k in (~too_long, too_long)
        )
        return replace(taken, refused=refused if self.refused is None else refused._with(self.refused))

    def _with(self, others: RequestMix) -> RequestMix:
        """These and other types."""

        def column(name: str) -> Any:
            return np.concatenate((getattr(self, name), getattr(others, name)))

        columns: dict[str, Any] = {name: column(name) for name in ("rate", "prompt_tokens", "output_tokens")}
        return replace(self, **columns)

    @cached_property
    def total_rate(self) -> float:
        """Requests per second over all types."""
        return float(self.rate.sum())

    def mean(self, per_type: NDArray[Any]) -> float:
        """Mean over requests of a value given per type, shape (J,)."""
        # Not a BLAS product: its threads cost more than they save, and its sums vary with their number.
        return float((self.rate * per_type).sum()) / self.total_rate

    def scaled(self, rate: float) -> RequestMix:
        """The same law of lengths at `rate` requests per second in all."""
        _refuse_rate(rate)
        factor = rate / self.total_rate
        refused = self.refused and replace(self.refused, rate=self.refused.rate * factor)
        return replace(self, rate=self.rate * factor, refused=refused)

    @property
    def iterations(self) -> FloatArray:
        """Iterations of one request, shape (J,): o, or o + 1 in the paper's convention."""
        return self.output_tokens.astype(np.float64) + (0.0 if self.prefill_emits_token else 1.0)

    @property
    def peak_kv_tokens(self) -> IntArray:
        """KV tokens at the end of the last iteration, shape (J,): l + iterations - 1."""
        return self.prompt_tokens + self.output_tokens - (1 if self.prefill_emits_token else 0)

    @property
    def tokens(self) -> FloatArray:
        """Tokens computed for one request, shape (J,): the prompt and one per further iteration."""
        if self.prompts_computed:
            return self.iterations
        return self.prompt_tokens + self.iterations - 1.0

    @property
    def kv_token_iterations(self) -> FloatArray:
        """KV tokens summed over the iterations of one request, shape (J,): a in model.md §2."""
        return self.iterations * (self.prompt_tokens + 0.5 * (self.iterations - 1.0))

    def memory_token_iterations(self, law: KvLaw) -> FloatArray:
        """KV memory summed over the iterations of one request, shape (J,), tokens of the pool: a, and half a block per
        iteration and group for rounding."""
        return np.asarray(law.memory(self.prompt_tokens, self.iterations)[0], dtype=np.float64)

    def block_iterations(self, block_size: int) -> IntArray:
        """KV blocks summed over the iterations of one request, shape (J,), exactly.

        `memory_token_iterations` is its mean, in tokens, over lengths that end anywhere in a block.
        """
        last = self.peak_kv_tokens
        return _blocks_up_to(last, block_size) - _blocks_up_to(self.prompt_tokens - 1, block_size)

    def squared_memory_iterations(self, law: KvLaw) -> FloatArray:
        """Squared KV memory summed over the iterations of one request, shape (J,): a2 in model.md §6."""
        return np.asarray(law.memory(self.prompt_tokens, self.iterations)[1], dtype=np.float64)

    @property
    def attention_pairs(self) -> FloatArray:
        """(query, key) pairs of the prefill of one request, shape (J,): l(l + 1)/2."""
        if self.prompts_computed:
            return np.zeros(len(self.rate))
        return 0.5 * self.prompt_tokens * (self.prompt_tokens + 1.0)

    def work_s(self, step_time: StepTime) -> FloatArray:
        """Seconds of variable work one request brings, shape (J,): w in model.md §2."""
        work = self.tokens, self.kv_token_iterations, self.attention_pairs, self.iterations
        per_request = step_time.duration_s(*work)
        return np.asarray(per_request - step_time.c0, dtype=np.float64)

    @cached_property
    def by_output(self) -> OutputLaw:
        """The mix by distinct output length."""
        lengths, at = np.unique(self.output_tokens, return_inverse=True)
        rate = np.bincount(at, self.rate).astype(np.float64)
        prompt_max = np.zeros(len(lengths))
        np.maximum.at(prompt_max, at, self.prompt_tokens)
        prompt_rate = np.bincount(at, self.rate * self.prompt_tokens).astype(np.float64)
        return OutputLaw(lengths, rate, prompt_rate, prompt_max)

    def grouped(self, output_edges: IntArray) -> MixClasses:
        """Classes by output length: an edge e ends a class at lengths up to e; no edge gives one class.

        Raises:
            InputError: the edges do not rise, or leave a class without requests.
        """
        edges = np.asarray(output_edges, dtype=np.int64)
        if np.any(np.diff(edges) <= 0):
            raise InputError(f"output edges {edges.tolist()} must rise")
        class_of_type = np.searchsorted(edges, self.output_tokens, side="left")
        rate: FloatArray = np.bincount(class_of_type, self.rate, len(edges) + 1).astype(np.float64)
        if np.any(rate == 0):
            k = int(np.argmin(rate))
            edge = int(edges[min(k, len(edges) - 1)])
            raise InputError(f"output edges {edges.tolist()}: class {k} has no requests; drop the edge {edge}")
        return MixClasses(self, edges, class_of_type, rate)


@dataclass(frozen=True, eq=False)
class OutputLaw:
    """A mix by its D distinct output lengths.

    Attributes:
        lengths: rising output lengths, shape (D,), tokens.
        rate: arrivals of each, shape (D,), requests per second.
        prompt_rate: prompt tokens that arrive with each, shape (D,), tokens per second.
        prompt_max: the largest prompt that comes with each, shape (D,), tokens.
    """

    lengths: IntArray
    rate: FloatArray
    prompt_rate: FloatArray
    prompt_max: FloatArray

    def lengths_at(self, shares: FloatArray) -> IntArray:
        """For each of `shares` the least length o with P(output <= o) at least that share."""
        below = np.cumsum(self.rate)
        # Rounding in the sum must not push a share that a length meets exactly on to the next length.
        at = np.searchsorted(below, shares * below[-1] * (1.0 - 1e-12), side="left")
        lengths: IntArray = self.lengths[at]
        return lengths

    def quantiles(self, shares: FloatArray) -> IntArray:
        """Distinct lengths o, rising, each the least with P(output <= o) at least one of `shares`."""
        return np.unique(self.lengths_at(shares))


@dataclass(frozen=True, eq=False)
class MixClasses:
    """A mix seen as K classes of output length, numbered as `np.searchsorted(output_edges, o, side="left")`.

    Attributes:
        mix: the mix itself.
        output_edges: rising output lengths, shape (K - 1,), tokens.
        class_of_type: class of each type, shape (J,).
        rate: arrival rates, shape (K,), requests per second.
    """

    mix: RequestMix
    output_edges: IntArray
    class_of_type: IntArray
    rate: FloatArray

    def mean(self, per_type: NDArray[Any]) -> FloatArray:
        """Mean over the requests of each class of a value given per type; shape (J,) to (K,)."""
        total = np.bincount(self.class_of_type, weights=self.mix.rate * per_type, minlength=len(self.rate))
        return total / self.rate


def _blocks_up_to(tokens: IntArray, block_size: int) -> IntArray:
    """ceil(k / block_size) summed over k from 1 to each of `tokens`."""
    full, rest = tokens // block_size, tokens % block_size
    total: IntArray = block_size * full * (full + 1) // 2 + (full + 1) * rest
    return total


def _refuse_rate(rate: float) -> None:
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"arrival rate {rate} must be a finite number of requests per second above 0")
    check_number("arrival rate", rate, MIN_RATE, MAX_RATE, "requests per second")


def _column(values: Any, dtype: type, name: str) -> NDArray[Any]:
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InputError(f"request mix: {name} must be a list of numbers, not {values!r}")
    if dtype is np.int64:
        bad = ~np.isfinite(array) | (array != np.floor(array)) | (np.abs(array) > 2**40)
        _refuse_where(bad, array, name, "a whole number of tokens")
    return array.astype(dtype)


def _refuse_where(bad: BoolArray, values: NDArray[Any], name: str, requirement: str) -> None:
    if bad.any():
        j = int(np.argmax(bad))
        raise InputError(f"request mix: type {j}: {name} = {values[j]} must be {requirement}")
