"""`StepGrid`: step times as tables, for machines whose step time is no sum of four terms."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidgate.errors import InputError

FloatArray = NDArray[np.float64]

KNOTS_PER_OCTAVE = 4
TOKEN_KNOTS_PER_OCTAVE = 16
"""Of the axis of `shared_s`: matrix products have steps and bends in their tokens that attention has not."""
TABLES = ("decode_s", "decode_attention_s", "shared_s", "prefill_attention_s")


def knots_to(largest: float, per_octave: int = KNOTS_PER_OCTAVE) -> FloatArray:
    """The knots of an axis from 1 to the first at or above `largest`: 1, 1.25, 1.5, 1.75, 2, 2.5 …"""
    octaves = int(np.ceil(np.log2(max(largest, 2.0)))) + 1
    steps = 1.0 + np.arange(per_octave) / per_octave
    knots: FloatArray = (2.0 ** np.arange(octaves)[:, None] * steps).ravel()
    return knots[: int(np.searchsorted(knots, largest)) + 1]


@dataclass(frozen=True, eq=False)
class StepGrid:
    """Tables of seconds over knots (`knots_to`), linear in between; a step is the sum of its parts.

    A step of n decodes whose contexts (at its end) are c tokens long on average takes decode_s(n, c). One that also
    computes p prefill tokens, each of which attends to q tokens on average, takes
    shared_s(n + p) + prefill_attention_s(p, q) + decode_attention_s(n, c).

    Attributes:
        decode_s: whole steps of decodes alone, shape (N, C), seconds.
        decode_attention_s: what decodes add to a step with prefill besides their tokens, shape (N, C), seconds.
        shared_s: what every token goes through (weights, experts, communication), by tokens, shape (T,), seconds.
        prefill_attention_s: what a prefill adds besides its tokens, shape (P, Q), seconds.
    """

    decode_s: FloatArray
    decode_attention_s: FloatArray
    shared_s: FloatArray
    prefill_attention_s: FloatArray

    def __post_init__(self) -> None:
        for name in TABLES:
            table = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, table)
            if table.ndim != (1 if name == "shared_s" else 2) or min(table.shape) < 2:
                raise InputError(f"step grid: {name} has shape {table.shape}; it needs at least two knots on each axis")
            if not np.isfinite(table).all():
                raise InputError(f"step grid: {name} holds a value that is not finite")
        if self.decode_s.shape != self.decode_attention_s.shape:
            raise InputError(
                f"step grid: decode_s has shape {self.decode_s.shape} and decode_attention_s "
                f"{self.decode_attention_s.shape}; they share their axes"
            )
        if self.decode_s.min() <= 0 or self.shared_s.min() <= 0:
            raise InputError("step grid: decode_s and shared_s must be above 0; a step takes time")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepGrid) and all(np.array_equal(getattr(self, t), getattr(other, t)) for t in TABLES)

    def __hash__(self) -> int:
        return hash(self.shared_s.tobytes())

    @property
    def digest(self) -> str:
        """Names the tables where there is no room for them."""
        return sha256(b"".join(getattr(self, name).tobytes() for name in TABLES)).hexdigest()[:16]

    @property
    def max_decodes(self) -> int:
        """The most decodes in a step."""
        return int(_last_knot(self.decode_s.shape[0]))

    @property
    def max_context(self) -> int:
        """The longest context, tokens."""
        return int(_last_knot(min(self.decode_s.shape[1], self.prefill_attention_s.shape[1])))

    @property
    def max_tokens(self) -> int:
        """The most tokens in a step."""
        chunks, tokens = self.prefill_attention_s.shape[0], len(self.shared_s)
        return int(min(_last_knot(chunks), _last_knot(tokens, TOKEN_KNOTS_PER_OCTAVE)))

    def duration_s(self, decodes: Any, decode_kv_tokens: Any, prefill_tokens: Any, attention_pairs: Any) -> FloatArray:
        """Seconds of n steps.

        Args:
            decodes: requests that decode, shape (n,) or a number, as all of these.
            decode_kv_tokens: their context lengths at the end of the step, summed.
            prefill_tokens: tokens of the prefill chunks.
            attention_pairs: (query, key) pairs of the prefill chunks.
        """
        from fluidgate.hardware.grid_kernel import grid_steps_s  # numba loads when a step is looked up

        columns = np.broadcast_arrays(*map(np.atleast_1d, (decodes, decode_kv_tokens, prefill_tokens, attention_pairs)))
        n, kv, chunk, pairs = (np.ascontiguousarray(column, dtype=np.float64) for column in columns)
        seconds = np.empty(len(n))
        grid_steps_s(tuple(getattr(self, name) for name in TABLES), n, kv, chunk, pairs, seconds)
        return seconds

    def refuse_beyond(self, decodes: int, context: int, tokens: int, where: str) -> None:
        """Refuse steps that the tables do not reach.

        Raises:
            InputError: more decodes, longer contexts or more tokens; names the largest that there is.
        """
        for what, wanted, known in (
            ("requests at once", decodes, self.max_decodes),
            ("tokens of context", context, self.max_context),
            ("tokens in a step", tokens, self.max_tokens),
        ):
            if wanted > known:
                raise InputError(
                    f"{where}: its step times are known up to {known:,} {what}, and {wanted:,} may come; make the "
                    "hardware file again with a larger grid, or set lower limits"
                )


def _last_knot(count: int, per_octave: int = KNOTS_PER_OCTAVE) -> float:
    octave, step = divmod(count - 1, per_octave)
    return float(2.0**octave * (1.0 + step / per_octave))
