"""`Hardware`: how long a step takes and how many KV blocks there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_COUNT, MAX_STEP_S, MIN_STEP_S, check_name
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import Calibration
from fluidgate.hardware.kv_law import IN_FLIGHT_BATCHES, KvLaw
from fluidgate.hardware.server_defaults import ServerDefaults
from fluidgate.hardware.step_grid import StepGrid
from fluidgate.words import shown


@dataclass(frozen=True)
class StepTime:
    """Duration of one engine step: c0 + c_tok·tokens + c_kv·kv_tokens + c_attn·attention_pairs + c_seq·sequences.

    `tokens` are the tokens computed in the step (prefill chunks and decodes). `kv_tokens` sums, over the
    scheduled requests, the context length each ends the step with. `attention_pairs` sums, over the prefill
    chunks, the (query, key) pairs: chunk·before + chunk·(chunk + 1)/2; chunks of one prompt add up to
    l·(l + 1)/2 whatever their sizes. `sequences` are the requests scheduled in the step: every decode and every
    prefill chunk is one. The paper's τ = d0 + d1·KV is `StepTime(c0=d0, c_kv=d1)`.

    Attributes:
        c0: seconds per step.
        c_tok: seconds per token computed.
        c_kv: seconds per KV token read.
        c_attn: seconds per prefill attention pair.
        c_seq: seconds per request scheduled: sampling, detokenising and bookkeeping, whatever its tokens.
    """

    c0: float
    c_tok: float = 0.0
    c_kv: float = 0.0
    c_attn: float = 0.0
    c_seq: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or value < 0:
                raise InputError(f"step time: {name} = {value} must be a finite number of seconds, at least 0")
            if value > MAX_STEP_S:
                raise InputError(f"step time: {name} = {value:g} must be at most {MAX_STEP_S:g} seconds")
        if self.shortest_s == 0:
            raise InputError("step time: c0, c_tok and c_seq are all 0, so steps would take no time; set c0")
        if self.shortest_s < MIN_STEP_S:
            raise InputError(
                f"step time: a step of one token would take {self.shortest_s:g} s, and none takes less than "
                f"{MIN_STEP_S:g}; set c0"
            )

    @property
    def shortest_s(self) -> float:
        """Seconds that every step takes at least: each has one request with one token."""
        return self.c0 + self.c_tok + self.c_seq

    def duration_s(self, tokens: Any, kv_tokens: Any, attention_pairs: Any, sequences: Any) -> Any:
        """Seconds of a step; scalars or arrays."""
        compute_s = self.c0 + self.c_tok * tokens + self.c_kv * kv_tokens + self.c_attn * attention_pairs
        return compute_s + self.c_seq * sequences


@dataclass(frozen=True)
class Hardware:
    """A model on a GPU (or several): step time and KV cache.

    Attributes:
        name: model and GPU, for tables.
        step_time: duration of a step; where there is a `grid`, its affine stand-in for closed forms.
        num_gpu_blocks: KV blocks, counted as vLLM counts them: one of them is the null block and holds
            nothing.
        block_size: tokens per block.
        source: where the numbers come from.
        relative_error: mean absolute relative error of `step_time` on the points it was fitted to; NaN if
            unknown; of held-out steps, outliers apart, where there is a `calibration`.
        calibration: how sure `step_time` is, and for which steps; None if it was not calibrated.
        grid: durations of steps as tables, which the engine takes; None where `step_time` is all there is.
        kv_law: blocks that a request of n tokens holds, and their dtype; None: of one group that keeps every token, and
            not known.
        server: the limits that a vLLM server sets on it by itself.
        overhead_s: what HTTP, the tokeniser and the delivery add to each request's TTFT and E2E latency, outside the
            engine; reports add it, the engine's clock does not know it.
    """

    name: str
    step_time: StepTime
    num_gpu_blocks: int
    block_size: int = 16
    source: str = ""
    relative_error: float = float("nan")
    calibration: Calibration | None = None
    grid: StepGrid | None = None
    kv_law: KvLaw | None = None
    server: ServerDefaults = ServerDefaults()  # noqa: RUF009 - it is frozen
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        check_name("hardware name", self.name)
        check_name("hardware source", self.source)
        if not 0 <= self.overhead_s <= MAX_STEP_S:
            raise InputError(
                f"{self.name}: overhead_s = {self.overhead_s} must be at least 0 and at most {MAX_STEP_S:g}"
            )
        if self.block_size < 1:
            raise InputError(f"{self.name}: block_size = {self.block_size} must be at least 1 token")
        for name, most in (("block_size", MAX_BLOCK_SIZE), ("num_gpu_blocks", MAX_COUNT)):
            if getattr(self, name) > most:
                raise InputError(f"{self.name}: {name} = {shown(getattr(self, name))} must be at most {most:,}")
        if self.num_gpu_blocks < 2:
            raise InputError(
                f"{self.name}: num_gpu_blocks = {self.num_gpu_blocks} leaves no room for KV (one block is "
                "the null block); use a larger memory fraction or a smaller model"
            )
        if self.kv_law is not None and self.kv_law.block_size != self.block_size:
            raise InputError(
                f"{self.name}: block_size = {self.block_size}, but its KV groups have blocks of "
                f"{self.kv_law.block_size} tokens; give the same"
            )

    def with_cache(self, num_gpu_blocks: int, block_size: int | None = None) -> Hardware:
        """The same machine with another KV cache; a block size that is None stays.

        Raises:
            InputError: another block size for a cache of several groups.
        """
        if block_size is None or block_size == self.block_size:
            return replace(self, num_gpu_blocks=num_gpu_blocks)
        law = None if self.kv_law is None else self.kv_law.with_block_size(block_size)
        return replace(self, num_gpu_blocks=num_gpu_blocks, block_size=block_size, kv_law=law)

    def slower(self, factor: float) -> Hardware:
        """The same machine with steps that take `factor` times as long."""
        step_time = StepTime(**{name: factor * value for name, value in asdict(self.step_time).items()})
        return replace(self, step_time=step_time, grid=None if self.grid is None else self.grid.slower(factor))

    def with_prompt_factor(self, factor: float) -> Hardware:
        """The same machine with prompts that take `factor` times as long to compute.

        In an affine step time decodes share the cost of a token with prompts; theirs are few.
        """
        step_time = replace(self.step_time, c_tok=factor * self.step_time.c_tok, c_attn=factor * self.step_time.c_attn)
        grid = None if self.grid is None else self.grid.with_prefill_factor(factor)
        return replace(self, step_time=step_time, grid=grid)

    @property
    def law(self) -> KvLaw:
        """How many of the blocks a request holds."""
        return self.kv_law or KvLaw.full(self.block_size)

    @property
    def kv_cache_text(self) -> str:
        """The KV blocks and what is known of them, for people."""
        blocks = f"{self.num_gpu_blocks:,} of {self.block_size} tokens"
        return f"{blocks}: {title}" if (title := self.law.title) else blocks

    @property
    def shortest_step_s(self) -> float:
        """Seconds that every step takes at least."""
        if self.grid is not None:
            return self.grid.shortest_step_s
        return self.step_time.shortest_s

    @property
    def sequence_s(self) -> float:
        """Seconds per request scheduled in a step, part of every step."""
        return self.step_time.c_seq if self.grid is None else self.grid.sequence_s

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens of KV that fit: every block but the null block."""
        return (self.num_gpu_blocks - 1) * self.block_size

    def logged_kv_tokens(self, max_num_batched_tokens: int, max_model_len: int) -> int:
        """The size of the KV cache that a vLLM server with these limits logs: longest requests that fit, in tokens."""
        return self.law.size_tokens(self.num_gpu_blocks, max_model_len, IN_FLIGHT_BATCHES * max_num_batched_tokens)

    def step_s(
        self, decodes: Any, decode_kv_tokens: Any, prefill: Any, prefill_kv_tokens: Any, pairs: Any, chunks: Any
    ) -> Any:
        """Seconds of steps as the engine takes them; arrays of shape (n,).

        Args:
            decodes: requests that decode.
            decode_kv_tokens: their context lengths at the end of the step, summed.
            prefill: tokens of the prefill chunks.
            prefill_kv_tokens: context lengths of their requests at the end of the step, summed.
            pairs: (query, key) pairs of the prefill chunks.
            chunks: requests that have a prefill chunk.
        """
        if self.grid is not None:
            return self.grid.duration_s(decodes, decode_kv_tokens, prefill, pairs, chunks)
        kv_tokens = decode_kv_tokens + prefill_kv_tokens
        return self.step_time.duration_s(decodes + prefill, kv_tokens, pairs, decodes + chunks)
