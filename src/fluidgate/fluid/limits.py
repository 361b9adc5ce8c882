"""`Limits`: what an engine can hold at once and compute per iteration."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from fluidgate.errors import InputError
from fluidgate.fluid.mix import RequestMix
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.kv_law import KvLaw


@dataclass(frozen=True)
class Limits:
    """KV memory, token budget and seats; None stands for no limit.

    Attributes:
        kv_tokens: KV memory in tokens (blocks times block size).
        block_size: tokens per KV block; 1 counts memory by the token.
        max_num_batched_tokens: tokens computed per iteration.
        max_num_seqs: residents.
        kv_law: how much of the memory a request takes; None: all its tokens, in whole blocks.
        max_model_len: prompt and output tokens of a request; a mix holds no longer ones.
    """

    kv_tokens: float
    block_size: int = 1
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_law: KvLaw | None = None
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.kv_tokens) and self.kv_tokens > 0):
            raise InputError(f"KV memory of {self.kv_tokens} tokens must be a finite number above 0")
        if self.block_size < 1:
            raise InputError(f"block_size = {self.block_size} must be at least 1 token")
        for name in ("max_num_batched_tokens", "max_num_seqs", "max_model_len"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 1:
                raise InputError(f"{name} = {limit} must be at least 1; use None for no limit")

    @classmethod
    def of(
        cls,
        hardware: Hardware,
        max_num_batched_tokens: int | None = None,
        max_num_seqs: int | None = None,
        max_model_len: int | None = None,
    ) -> Limits:
        """The limits of a machine and of the engine's options."""
        return cls(
            hardware.kv_capacity_tokens,
            hardware.block_size,
            max_num_batched_tokens,
            max_num_seqs,
            hardware.kv_law,
            max_model_len,
        )

    @property
    def law(self) -> KvLaw:
        """How much of the memory a request takes."""
        return self.kv_law or KvLaw.full(self.block_size)

    @property
    def batched_tokens(self) -> float:
        """Tokens per iteration; infinite without a limit."""
        return inf if self.max_num_batched_tokens is None else float(self.max_num_batched_tokens)

    @property
    def seats(self) -> float:
        """Residents; infinite without a limit."""
        return inf if self.max_num_seqs is None else float(self.max_num_seqs)

    def refuse_oversized(self, mix: RequestMix) -> None:
        """Raise `InputError` for the first lengths whose KV can never fit."""
        peak = mix.peak_kv_tokens
        law = self.law
        fits = peak <= self.kv_tokens if law.is_one_full_group else law.blocks(peak) * law.block_size <= self.kv_tokens
        if fits.all():
            return
        j = int(np.argmin(fits))
        raise InputError(
            f"a request of {mix.prompt_tokens[j]:,} prompt and {mix.output_tokens[j]:,} output tokens ends "
            f"with {peak[j]:,} KV tokens and can never fit the {self.kv_tokens:,.0f} tokens of KV memory; "
            "use hardware with more memory or leave out requests of this length"
        )
