"""`KvLaw`: the KV blocks that a request of n tokens holds, by group of layers, as vLLM 0.32 counts them.

vLLM keeps one pool of blocks of equal bytes. Layers that cache alike form groups, and each group takes blocks of its
own from the pool for every request (vllm/v1/core/kv_cache_utils.py).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from fluidgate.errors import InputError
from fluidgate.hardware.kv_layers import KIND_TITLES, KvKind

IN_FLIGHT_BATCHES = 2
"""Batches at once with asynchronous scheduling, vLLM's default: a window keeps the tokens of both."""


@dataclass(frozen=True)
class KvDtype:
    """The type of a KV cache's elements, as vLLM's option names it.

    Attributes:
        name: empty where it is not known.
        element_bytes: bytes of an element.
        source: where it comes from.
    """

    name: str = ""
    element_bytes: int = 2
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.source}" if self.source else self.name


ASKED = "as asked"


@dataclass(frozen=True)
class Piece:
    """Memory that is slope·n + intercept for contexts of n tokens, from `start` to where the next piece starts."""

    start: int
    slope: float
    intercept: float


@dataclass(frozen=True)
class KvGroup:
    """Layers that share a request's blocks.

    Attributes:
        kind: what they keep; see `KvLayer`.
        layers: how many caches.
        block_size: tokens that a block of this group holds; of a state, those between its copies.
        reach: tokens of the window or the chunk.
        copies: of a state, the most that vLLM reserves for a request while it caches prefixes.
    """

    kind: KvKind
    layers: int
    block_size: int
    reach: int | None = None
    copies: int = 2

    def __post_init__(self) -> None:
        for name in ("layers", "block_size", "reach", "copies"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"KV group: {name} = {value} must be at least 1")

    def blocks(self, tokens: Any) -> Any:
        """Blocks that a decoding request holds at the end of a step that leaves `tokens` tokens in the cache; of any
        shape."""
        if self.kind == "state":
            return np.ones_like(tokens)
        dropped: Any = 0
        if self.reach is not None:
            dropped = (
                np.maximum(0, tokens - self.reach)
                if self.kind == "sliding"
                else (tokens - 1) // self.reach * self.reach
            )
        return -(-tokens // self.block_size) - dropped // self.block_size

    def most_blocks(self, max_model_len: int, in_flight_tokens: int, prefix_caching: bool = True) -> int:
        """Blocks that vLLM reserves for a request of the longest length, with so many tokens in flight."""
        if self.kind == "state":
            return self.copies if prefix_caching else 1
        if self.reach is None:
            return -(-max_model_len // self.block_size)
        kept = self.reach - 1 if self.kind == "sliding" else self.reach
        blocks = -(-min(kept + in_flight_tokens, max_model_len) // self.block_size)
        return blocks + 1 if self.kind == "sliding" else blocks  # a window may begin within a block

    def mean_blocks(self, longest: int) -> list[Piece]:
        """The mean of `blocks` over where in a block a request ends, up to `longest` tokens."""
        if self.kind == "state":
            return [Piece(0, 0.0, 1.0)]
        slope, rounding = 1.0 / self.block_size, 0.5 * (self.block_size - 1) / self.block_size
        pieces = [Piece(0, slope, rounding)]
        if self.reach is None:
            return pieces
        if self.kind == "sliding":  # both ends lie anywhere in their blocks
            return [*pieces, Piece(self.reach + 1, 0.0, slope * self.reach + 2.0 * rounding)]
        begins = range(self.reach, longest, self.reach)
        return pieces + [Piece(begin + 1, slope, rounding - begin // self.block_size) for begin in begins]

    @property
    def title(self) -> str:
        """What it is, for people."""
        reach = "" if self.reach is None else f" of {self.reach:,} tokens"
        return f"{self.layers} × {KIND_TITLES[self.kind]}{reach}"


@dataclass(frozen=True)
class KvLaw:
    """KV memory of requests: one pool of blocks, from which each group takes its own.

    Attributes:
        groups: the groups, in vLLM's order.
        bytes_per_block: of the pool, on each GPU; 0 where they are not known.
        dtype: of the cache's elements.
    """

    groups: tuple[KvGroup, ...]
    bytes_per_block: int = 0
    dtype: KvDtype = KvDtype()

    @classmethod
    def full(cls, block_size: int) -> KvLaw:
        """That of a cache whose layers all keep every token."""
        return cls((KvGroup("full", 1, block_size),))

    def with_block_size(self, block_size: int) -> KvLaw:
        """With as many tokens a block.

        Raises:
            InputError: several groups, whose blocks follow from the model.
        """
        if not self.is_one_full_group:
            raise InputError(
                f"block_size = {block_size}: the blocks of a cache of several kinds ({self.title}) have "
                f"{self.block_size} tokens, which follows from the model; leave it out"
            )
        group = replace(self.groups[0], block_size=block_size)
        return KvLaw((group,), self.bytes_per_block * block_size // self.block_size, self.dtype)

    @property
    def block_size(self) -> int:
        """Tokens of a block, the unit that the pool is measured in: of the first group that keeps every token, or else
        of the first that keeps a window, or of the states."""
        return min(self.groups, key=lambda group: (group.kind == "state", group.reach is not None)).block_size

    @property
    def is_one_full_group(self) -> bool:
        """Whether a request of n tokens holds n tokens of the pool, in whole blocks."""
        return len(self.groups) == 1 and self.groups[0].reach is None and self.groups[0].kind != "state"

    def blocks(self, tokens: Any) -> Any:
        """Blocks that a decoding request holds at the end of a step that leaves `tokens` tokens in the cache; of any
        shape."""
        return sum(group.blocks(tokens) for group in self.groups)

    def pieces(self, longest: int) -> tuple[Piece, ...]:
        """The mean memory of a decoding request, in tokens of the pool, up to `longest` tokens of context."""
        unit = self.block_size
        groups = [group.mean_blocks(longest) for group in self.groups]
        pieces = []
        begins = [[piece.start for piece in group] for group in groups]
        for start in sorted({start for group in begins for start in group}):
            parts = [group[bisect_right(starts, start) - 1] for group, starts in zip(groups, begins, strict=True)]
            pieces.append(
                Piece(start, unit * sum(part.slope for part in parts), unit * sum(part.intercept for part in parts))
            )
        return tuple(pieces)

    @property
    def rounding_tokens(self) -> float:
        """Mean tokens of the pool that lie empty in a request's last blocks."""
        return 0.5 * sum((group.block_size - 1) / group.block_size for group in self.groups) * self.block_size

    def memory(self, first: Any, count: Any) -> tuple[Any, Any]:
        """Memory, and its square, summed over contexts of `first`, `first` + 1, … tokens, `count` in all.

        Args:
            first: of any shape, as `count`; contexts need not be whole.

        Returns:
            Tokens of the pool, and their squares.
        """
        last = first + count - 1.0
        total, squares = np.zeros(np.shape(last)), np.zeros(np.shape(last))
        pieces = self.pieces(int(np.max(last)) + 1)
        for piece, end in zip(pieces, [*(piece.start for piece in pieces[1:]), inf], strict=True):
            begin = np.maximum(first, float(piece.start))
            n = np.maximum(0.0, np.minimum(last, end - 1.0) - begin + 1.0)
            least = piece.slope * begin + piece.intercept
            total += n * (least + 0.5 * piece.slope * (n - 1.0))
            squares += n * least**2 + least * piece.slope * n * (n - 1.0)
            squares += piece.slope**2 * (n - 1.0) * n * (2.0 * n - 1.0) / 6.0
        return total, squares

    def most_blocks(self, max_model_len: int, in_flight_tokens: int, prefix_caching: bool = True) -> int:
        """Blocks that vLLM reserves for a request of the longest length, with so many tokens in flight."""
        return sum(group.most_blocks(max_model_len, in_flight_tokens, prefix_caching) for group in self.groups)

    def size_tokens(
        self, num_gpu_blocks: int, max_model_len: int, in_flight_tokens: int, prefix_caching: bool = True
    ) -> int:
        """What vLLM logs as the KV cache's size: requests of the longest length that fit, times that length."""
        most = self.most_blocks(max_model_len, in_flight_tokens, prefix_caching)
        return int(num_gpu_blocks / most * max_model_len)

    @property
    def title(self) -> str:
        """What its layers keep, and the dtype, for people."""
        if self.is_one_full_group and not self.bytes_per_block:
            return str(self.dtype)
        layers: dict[KvGroup, int] = {}
        for group in self.groups:
            alike = replace(group, layers=1)
            layers[alike] = layers.get(alike, 0) + group.layers
        kept = [replace(group, layers=count).title for group, count in layers.items()]
        return " + ".join(kept) + (f", {self.dtype}" if self.dtype.name else "")
