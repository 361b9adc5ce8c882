"""A server's KV blocks as a policy counts them: one for each `block_size` tokens of a request."""

from __future__ import annotations

from typing import Any

from fluidgate.hardware import KvGroup, KvLaw
from fluidgate.hardware.kv_layers import KvKind

REMEMBERED = 1000.0
"""Requests over which the mean is taken, exponentially weighted."""

_KINDS: dict[str, KvKind] = {
    "FullAttentionSpec": "full",
    "MLAAttentionSpec": "latent",
    "SlidingWindowSpec": "sliding",
    "SlidingWindowMLASpec": "sliding",
    "ChunkedLocalAttentionSpec": "chunked",
    "MambaSpec": "state",
}
"""By vLLM's name of what a layer tells of its cache."""


def unknown_kinds(groups: list[Any]) -> list[str]:
    """Of several groups, vLLM's names of the kinds whose blocks are not known here."""
    names = {type(_layer_of(group)).__name__ for group in groups}
    return sorted(names - _KINDS.keys()) if len(groups) > 1 else []


def law_of(groups: list[Any], block_size: int) -> KvLaw:
    """How many blocks a request holds in a server, from its scheduler's `kv_cache_groups`.

    Args:
        block_size: where there is one group of a kind that is not known, which then counts as full attention.
    """
    known = [group for group in groups if type(_layer_of(group)).__name__ in _KINDS]
    return KvLaw(tuple(map(_group_of, known))) if known else KvLaw.full(block_size)


def _layer_of(group: Any) -> Any:
    """What one of the group's layers tells; those of a group may differ in bytes alone."""
    spec = group.kv_cache_spec
    return next(iter(getattr(spec, "kv_cache_specs", {0: spec}).values()))


def _group_of(group: Any) -> KvGroup:
    spec = _layer_of(group)
    reach = getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None)
    kind = _KINDS[type(spec).__name__]
    copies = 2 + getattr(spec, "num_prefill_checkpoint_blocks", 0)
    windowed = kind in ("sliding", "chunked")
    return KvGroup(kind, len(group.layer_names), spec.block_size, reach if windowed else None, copies)


class CountedPool:
    """Blocks of a law's pool, in those of a pool in which requests that keep every token have as much room.

    Where layers forget, or keep a state, a request holds more or fewer than a block for every so many tokens. Policies
    count these, so they are shown a pool that is larger or smaller in proportion: what the requests would hold in it
    over their lives ÷ what they hold. It is learned from the requests that end; until one has, from the prompts.
    """

    def __init__(self, law: KvLaw) -> None:
        self.law, self.plain = law, KvLaw.full(law.block_size)
        self._counted = self._held = 0.0
        self._any_ended = False

    def arrived(self, prompt_tokens: int) -> None:
        """A request has come."""
        if not self._any_ended and not self.law.is_one_full_group:
            self._add(prompt_tokens, 1)

    def ended(self, prompt_tokens: int, generated_tokens: int) -> None:
        """A request has ended after so many tokens."""
        if generated_tokens > 0 and not self.law.is_one_full_group:
            if not self._any_ended:
                self._any_ended, self._counted, self._held = True, 0.0, 0.0
            self._add(prompt_tokens, generated_tokens)

    def _add(self, first: int, count: int) -> None:
        keep = 1.0 - 1.0 / REMEMBERED
        self._counted = keep * self._counted + float(self.plain.memory(float(first), float(count))[0])
        self._held = keep * self._held + float(self.law.memory(float(first), float(count))[0])

    def counted(self, blocks: int) -> int:
        """So many of the pool's blocks, as a policy counts them."""
        return int(blocks * self._counted / self._held) if self._held > 0 else blocks
