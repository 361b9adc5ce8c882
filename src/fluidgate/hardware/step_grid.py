"""`StepGrid`: step times as tables, for machines whose step time is not a sum of four terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_STEP_S, MIN_STEP_S
from fluidgate.errors import InputError
from fluidgate.hardware.knots import KNOTS_PER_OCTAVE, TOKEN_KNOTS_PER_OCTAVE, knots

MAX_OCTAVES = 40
TABLES = ("decode_s", "decode_attention_s", "shared_s", "prefill_attention_s")
PARTS = (*TABLES, "sequence_s")


@dataclass(frozen=True, eq=False)
class StepGrid:
    """Tables of seconds over knots (`knots_to`), linear in between; a step is the sum of its parts.

    A step of n decodes whose contexts (at its end) are c tokens long on average takes decode_s(n, c). One that also
    computes p prefill tokens, each of which attends to q tokens on average, takes
    shared_s(n + p) + prefill_attention_s(p, q) + decode_attention_s(n, c). Either takes sequence_s more for every
    decode and every prefill chunk.

    Attributes:
        decode_s: whole steps of decodes alone, shape (N, C), seconds.
        decode_attention_s: what decodes add to a step with prefill besides their tokens, shape (N, C), seconds.
        shared_s: what every token goes through (weights, experts, communication), by tokens, shape (T,), seconds.
        prefill_attention_s: what a prefill adds besides its tokens, shape (P, Q), seconds.
        sequence_s: seconds per request scheduled, whatever its tokens.
    """

    decode_s: FloatArray
    decode_attention_s: FloatArray
    shared_s: FloatArray
    prefill_attention_s: FloatArray
    sequence_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sequence_s <= MAX_STEP_S:
            raise InputError(
                f"step grid: sequence_s = {self.sequence_s:g} must be seconds, at least 0 and at most {MAX_STEP_S:g}"
            )
        for name in TABLES:
            table = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, table)
            axes, most = (1, TOKEN_KNOTS_PER_OCTAVE) if name == "shared_s" else (2, KNOTS_PER_OCTAVE)
            if table.ndim != axes or min(table.shape) < 2 or max(table.shape) > MAX_OCTAVES * most:
                where = "one axis" if axes == 1 else "each of two axes"
                raise InputError(
                    f"step grid: {name} has shape {table.shape}; give 2 to {MAX_OCTAVES * most} knots on {where}"
                )
            if not np.isfinite(table).all():
                raise InputError(f"step grid: {name} holds a value that is not finite")
            if np.abs(table).max() > MAX_STEP_S:
                raise InputError(f"step grid: {name} holds {np.abs(table).max():g}; no step takes {MAX_STEP_S:g} s")
        if self.decode_s.shape != self.decode_attention_s.shape:
            raise InputError(
                f"step grid: decode_s has shape {self.decode_s.shape} and decode_attention_s "
                f"{self.decode_attention_s.shape}; they share their axes"
            )
        if self.decode_s.min() <= 0 or self.shared_s.min() <= 0:
            raise InputError("step grid: decode_s and shared_s must be above 0; a step takes time")
        self._refuse_backward_steps()
        if self.shortest_step_s < MIN_STEP_S:
            raise InputError(
                f"step grid: its shortest step takes {self.shortest_step_s:g} s, and none takes less than "
                f"{MIN_STEP_S:g}; give seconds"
            )

    def _least_with_prefill(self) -> tuple[FloatArray, FloatArray]:
        """Prefill tokens of the table's chunks, and the least seconds that a step with so many takes."""
        least_from = np.minimum.accumulate(self.shared_s[::-1])[::-1]
        chunks = knots(self.prefill_attention_s.shape[0])
        shared_s = np.interp(chunks, knots(len(self.shared_s), TOKEN_KNOTS_PER_OCTAVE), least_from)
        least_s = shared_s + self.prefill_attention_s.min(axis=1) + min(self.decode_attention_s.min(), 0.0)
        return chunks, least_s

    def _refuse_backward_steps(self) -> None:
        """Attention may be negative where `shared_s` holds some of it, but every step must take time."""
        chunks, least_s = self._least_with_prefill()
        if least_s.min() <= 0:
            raise InputError(
                f"step grid: a step with {chunks[least_s.argmin()]:g} prefill tokens would take no time: "
                "prefill_attention_s and decode_attention_s are below -shared_s there"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepGrid) and all(np.array_equal(getattr(self, p), getattr(other, p)) for p in PARTS)

    def __hash__(self) -> int:
        return hash(self.shared_s.tobytes())

    def with_token_time(self, token_s: float) -> StepGrid:
        """With `token_s` seconds more (or less) for every token computed."""
        decodes = knots(self.decode_s.shape[0])
        tokens = knots(len(self.shared_s), TOKEN_KNOTS_PER_OCTAVE)
        return replace(
            self, decode_s=self.decode_s + token_s * decodes[:, None], shared_s=self.shared_s + token_s * tokens
        )

    def with_prefill_factor(self, factor: float) -> StepGrid:
        """With steps that hold a prefill `factor` times as long; steps of decodes alone stay."""
        return replace(
            self,
            decode_attention_s=factor * self.decode_attention_s,
            shared_s=factor * self.shared_s,
            prefill_attention_s=factor * self.prefill_attention_s,
        )

    def slower(self, factor: float) -> StepGrid:
        """With all steps `factor` times as long."""
        return StepGrid(**{part: factor * getattr(self, part) for part in PARTS})

    @property
    def shortest_step_s(self) -> float:
        """Seconds that every step takes at least."""
        return float(min(self.decode_s.min(), self._least_with_prefill()[1].min())) + self.sequence_s

    @property
    def digest(self) -> str:
        """A short name for the grid, where there is no room for it."""
        hasher = sha256()
        for name in TABLES:
            table = getattr(self, name)
            hasher.update(f"{name} {table.shape}".encode() + table.tobytes())
        if self.sequence_s:
            hasher.update(f"sequence_s {self.sequence_s!r}".encode())
        return hasher.hexdigest()[:16]

    @property
    def max_decodes(self) -> int:
        """The most decodes in a step."""
        return int(knots(self.decode_s.shape[0])[-1])

    @property
    def max_context(self) -> int:
        """The longest context, tokens."""
        return int(knots(min(self.decode_s.shape[1], self.prefill_attention_s.shape[1]))[-1])

    @property
    def _most_tokens(self) -> float:
        return float(knots(len(self.shared_s), TOKEN_KNOTS_PER_OCTAVE)[-1])

    @staticmethod
    def _contexts(table: FloatArray) -> float:
        return float(knots(table.shape[1])[-1])

    @property
    def max_tokens(self) -> int:
        """The most tokens in a step."""
        chunks, tokens = self.prefill_attention_s.shape[0], len(self.shared_s)
        return int(min(knots(chunks)[-1], knots(tokens, TOKEN_KNOTS_PER_OCTAVE)[-1]))

    def duration_s(
        self, decodes: Any, decode_kv_tokens: Any, prefill_tokens: Any, attention_pairs: Any, chunks: Any
    ) -> FloatArray:
        """Seconds of n steps, shape (n,).

        Args:
            decodes, decode_kv_tokens, prefill_tokens, attention_pairs: as `tables_s` takes them.
            chunks: requests that have a prefill chunk.

        Raises:
            InputError: no whole steps, steps beyond the tables, or chunks without tokens.
        """
        seconds = self.tables_s(decodes, decode_kv_tokens, prefill_tokens, attention_pairs)
        count, tokens = np.ravel(chunks), np.ravel(prefill_tokens)
        if np.any((count > tokens) | ((count <= 0) & (tokens > 0))):
            raise InputError("step grid: a prefill chunk is at least one token, and prefill tokens come in chunks")
        return seconds + self.sequence_s * (np.ravel(decodes) + count)

    def tables_s(self, decodes: Any, decode_kv_tokens: Any, prefill_tokens: Any, attention_pairs: Any) -> FloatArray:
        """Seconds of n steps without what each request costs by itself (`sequence_s`), shape (n,).

        Args:
            decodes: requests that decode, shape (n,) or a number, as all of these.
            decode_kv_tokens: their context lengths at the end of the step, summed.
            prefill_tokens: tokens of the prefill chunks.
            attention_pairs: (query, key) pairs of the prefill chunks.

        Raises:
            InputError: no whole steps, or steps beyond the tables.
        """
        from fluidgate.hardware.grid_kernel import grid_steps_s  # numba loads when a step is looked up

        columns = np.broadcast_arrays(*map(np.ravel, (decodes, decode_kv_tokens, prefill_tokens, attention_pairs)))
        n, kv, chunk, pairs = (np.ascontiguousarray(column, dtype=np.float64) for column in columns)
        within = (n >= 0) & (n <= self.max_decodes) & (n <= kv) & (kv <= n * self._contexts(self.decode_s))
        within &= (chunk >= 0) & (n + chunk <= self._most_tokens) & (chunk <= pairs)
        within &= pairs <= chunk * self._contexts(self.prefill_attention_s)
        if not within.all():
            i = int(np.argmin(within))
            raise InputError(
                f"step grid: step {i} is none, or beyond the tables: {n[i]:g} decodes with {kv[i]:g} KV tokens, "
                f"{chunk[i]:g} prefill tokens with {pairs[i]:g} pairs"
            )
        seconds = np.empty(len(n))
        grid_steps_s(tuple(getattr(self, name) for name in TABLES), n, kv, chunk, pairs, seconds)
        return seconds

    def refuse_beyond(self, decodes: int, context: int, tokens: int, where: str) -> None:
        """Refuse steps that the tables do not reach.

        Raises:
            InputError: more decodes, longer contexts or more tokens; names the largest in the tables.
        """
        for what, needed, largest in (
            ("requests at once", decodes, self.max_decodes),
            ("tokens of context", context, self.max_context),
            ("tokens in a step", tokens, self.max_tokens),
        ):
            if needed > largest:
                raise InputError(
                    f"{where}: its step times are known up to {largest:,} {what}, and {needed:,} may come; make the "
                    "hardware file again with a larger grid, or set lower limits"
                )
