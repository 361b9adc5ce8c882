"""From the layers of a model to the groups of its cache, as vLLM 0.32 forms them on one of several GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from fluidgate.errors import InputError
from fluidgate.hardware.kv_law import KvDtype, KvGroup, KvLaw
from fluidgate.hardware.kv_layers import KvKind, KvLayer, KvLayers

KERNEL_BLOCK = 16
"""Tokens that CUDA's attention kernels take at least; blocks beside states are multiples of it."""
LATENT_BLOCK = 128
"""The same beside states where attention is latent."""
PAD_BELOW = 1.5
"""Kinds whose numbers of layers differ by less than this factor are padded to one group each."""


@dataclass(frozen=True)
class _Cache:
    """One cache on one GPU: the layer's place in the model, what it keeps, and tokens and bytes of a block."""

    place: int
    layer: KvLayer
    block_size: int
    page_bytes: int

    @property
    def spec(self) -> tuple[KvKind, int | None, int, int]:
        """Caches of one spec may share a group."""
        return self.layer.kind, self.layer.reach, self.block_size, self.page_bytes


def kv_law(
    layers: KvLayers,
    *,
    dtype: KvDtype,
    block_size: int = 16,
    tp: int = 1,
    pp: int = 1,
    kernel_block: int = KERNEL_BLOCK,
) -> KvLaw:
    """The law of a model's cache on GPUs of `tp`-fold tensor and `pp`-fold pipeline parallelism.

    Args:
        layers: what each layer keeps.
        dtype: of its elements.
        block_size: tokens per block that the server was asked for; beside states, vLLM raises it.
        kernel_block: tokens that the attention kernel takes at least.

    Raises:
        InputError: a model without any cache, or a parallelism that does not divide it.
    """
    if not any(layers):
        raise InputError("none of the model's layers keeps a KV cache, so there is nothing to admit by")
    _refuse_uneven(layers, tp, pp)
    caches = _unified(_caches(layers, tp, dtype.element_bytes, block_size, kernel_block))
    groups = _groups(caches)
    stages = _stage_of_layer(len(layers), pp)
    pages = [
        [sum(cache.page_bytes for cache in group if stages[cache.place] == stage) for stage in range(pp)]
        for group in groups
    ]
    return KvLaw(
        tuple(_group(group) for group in groups),
        max(map(max, pages)),
        dtype,
    )


def _group(caches: list[_Cache]) -> KvGroup:
    first = caches[0]
    return KvGroup(first.layer.kind, len(caches), first.block_size, first.layer.reach, first.layer.copies)


def _refuse_uneven(layers: KvLayers, tp: int, pp: int) -> None:
    if tp < 1:
        raise InputError(f"tp = {tp} must be at least 1")
    if not 1 <= pp <= len(layers):
        raise InputError(f"pp = {pp} must be at least 1 and at most {len(layers)}, the number of layers")
    for cache in (cache for layer in layers for cache in layer):
        if cache.kind != "latent" and cache.heads % tp and tp % cache.heads:
            raise InputError(f"tp = {tp} neither divides the {cache.heads} KV heads nor is a multiple of them")
        if any(elements % tp for elements, _ in cache.state):
            raise InputError(f"tp = {tp} does not divide the states of the model's layers")


def _caches(layers: KvLayers, tp: int, element_bytes: int, block_size: int, kernel_block: int) -> list[_Cache]:
    """In vLLM's order; a state takes as many bytes as a block of attention, which is made large enough for it."""
    flat = [(place, cache) for place, layer in enumerate(layers) for cache in layer]
    states = [cache for _, cache in flat if cache.kind == "state"]
    attention = [cache for _, cache in flat if cache.kind != "state"]
    state_bytes = max((cache.state_bytes(tp) for cache in states), default=0)
    if states and attention:
        token_bytes = attention[0].token_bytes(tp, element_bytes)
        unit = max(kernel_block, block_size, LATENT_BLOCK if attention[0].kind == "latent" else 1)
        block_size = max(block_size, unit * ceil(state_bytes / (unit * token_bytes)))
        state_bytes = block_size * token_bytes

    def page_bytes(cache: KvLayer) -> int:
        return state_bytes if cache.kind == "state" else block_size * cache.token_bytes(tp, element_bytes)

    return [_Cache(place, cache, block_size, page_bytes(cache)) for place, cache in flat]


def _unified(caches: list[_Cache]) -> list[_Cache]:
    """With blocks of one size in bytes, unless all caches share a group anyway: smaller pages hold more tokens, or are
    padded where the sizes do not divide."""
    largest = max(cache.page_bytes for cache in caches)
    if _are_one_group(caches) or all(cache.page_bytes == largest for cache in caches):
        return caches

    def unified(cache: _Cache) -> _Cache:
        more, rest = divmod(largest, cache.page_bytes)
        return replace(cache, block_size=cache.block_size * (1 if rest else more), page_bytes=largest)

    return [unified(cache) for cache in caches]


def _are_one_group(caches: list[_Cache]) -> bool:
    """Whether all need the same tokens: every one all of them, or those of one window."""
    return len({(cache.layer.reach, cache.layer.kind == "state") for cache in caches}) == 1


def _groups(caches: list[_Cache]) -> list[list[_Cache]]:
    """As many layers in each group as the rarest kind has, or as the commonest where they are nearly as many."""
    if _are_one_group(caches):
        return [caches]
    kinds: dict[object, list[_Cache]] = {}
    for cache in caches:
        kinds.setdefault(cache.spec, []).append(cache)
    numbers = [len(kind) for kind in kinds.values()]
    size = max(numbers) if max(numbers) < PAD_BELOW * min(numbers) else min(numbers)
    groups = []
    for kind in kinds.values():
        count = ceil(len(kind) / size)
        groups += [kind[i::count] for i in range(count)]
    return groups


def _stage_of_layer(layers: int, pp: int) -> list[int]:
    """The pipeline stage of each layer; those left over go to the last stages but the very last (vllm
    distributed/utils.py, `get_pp_indices`)."""
    sizes = [layers // pp] * pp
    for i in range(2, layers % pp + 2):
        sizes[-i] += 1
    return [stage for stage, size in enumerate(sizes) for _ in range(size)]
