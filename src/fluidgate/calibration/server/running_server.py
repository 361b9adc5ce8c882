"""`RunningServer`: what a vLLM server says of itself before it is measured. The names are those of vLLM 0.32."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fluidgate.bounds import MAX_KV_TOKENS, check_whole
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import KvSize, Scrape, fetch, kv_size
from fluidgate.vllm_metrics.address import DEADLINE_S, Address

MAX_BYTES = 2**20
"""Of a list of models; adapters are in it."""

MAX_TOKENS = 10**12
"""A `max_model_len` above this is an error."""

NEEDED = (
    "iteration_tokens_total",
    "time_to_first_token_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)
"""Histograms without which steps cannot be measured."""


@dataclass(frozen=True)
class RunningServer:
    """A vLLM server with one idle engine.

    Attributes:
        url: its address, without a path.
        model: the name that requests give.
        tokenizer: where the model, and its tokenizer with it, was loaded from.
        max_model_len: most tokens of a request, prompt and output.
        num_gpu_blocks, block_size: its KV memory; one block is the null block. Where layers keep their KV in several
            groups, one pool of as many tokens.
        several_kv_groups: whether they do.
        authorization: the header that grants access; never shown.
    """

    url: str
    model: str
    tokenizer: str
    max_model_len: int
    num_gpu_blocks: int
    block_size: int
    authorization: str | None = field(default=None, repr=False)
    several_kv_groups: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return (self.num_gpu_blocks - 1) * self.block_size

    def scrape(self) -> Scrape:
        """Its metrics now."""
        return fetch(Address(self.url, self.authorization))


def look_at(
    url: str, *, api_key: str | None = None, kv_cache_tokens: int | None = None, deadline_s: float = DEADLINE_S
) -> RunningServer:
    """The server at an address.

    Args:
        url: `http://HOST:PORT`; user and password may stand before the host.
        api_key: that the server asks for.
        kv_cache_tokens: the size of its KV cache as its log prints it, in place of what its page states.
        deadline_s: for each of the two pages that are read.

    Raises:
        InputError: it is not vLLM, has several engines, is at work, decodes speculatively, or does not say what is
            needed.
    """
    address = Address.of(url, api_key)
    scrape = fetch(address, deadline_s=deadline_s)
    base = address.at("").url
    _refuse(scrape, base)
    size = _kv_size(scrape, base, kv_cache_tokens)
    model = _first_model(address.at("/v1/models"), deadline_s)
    return RunningServer(
        url=base,
        model=model["id"],
        tokenizer=model.get("root") or model["id"],
        max_model_len=model["max_model_len"],
        num_gpu_blocks=1 + int(size.tokens) // size.block_size,
        block_size=size.block_size,
        authorization=address.authorization,
        several_kv_groups=size.several_groups,
    )


def _kv_size(scrape: Scrape, base: str, kv_cache_tokens: int | None) -> KvSize:
    size = kv_size(scrape)
    if kv_cache_tokens is not None:
        check_whole("--kv-cache-tokens", kv_cache_tokens, 1, MAX_KV_TOKENS)
        block_size = scrape.count("block_size") or 16
        blocks = 1 + kv_cache_tokens // block_size
        size = KvSize(blocks, block_size, float(kv_cache_tokens), size is not None and size.several_groups)
    if size is None or size.tokens < size.block_size:
        raise InputError(
            f"{base}: does not state num_gpu_blocks and block_size in vllm:cache_config_info, so the size of the KV "
            "cache is unknown; give --kv-cache-tokens, as the server's log prints it"
        )
    return size


def _refuse(scrape: Scrape, base: str) -> None:
    engines = len(scrape.moments())
    if engines > 1:
        raise InputError(
            f"{base}: has {engines} data-parallel engines, whose steps cannot be told apart; calibrate a server with "
            "one of them, with --data-parallel-size 1"
        )
    for name in NEEDED:
        if scrape.histogram(name) is None:
            raise InputError(f"{base}: has no vllm:{name}; fluidgate reads the names of vLLM 0.32")
    if "vllm:spec_decode_num_drafts_total" in scrape:
        raise InputError(
            f"{base}: decodes speculatively, so that tokens do not tell steps; start it without --speculative-config"
        )
    at_work = scrape.in_system()
    if at_work:
        raise InputError(
            f"{base}: {at_work:g} requests run or wait there; calibrate a server that has no other traffic"
        )


def _first_model(address: Address, deadline_s: float) -> dict[str, Any]:
    """The base model; adapters come after it."""
    page = address.get("application/json", deadline_s=deadline_s, most_bytes=MAX_BYTES)
    try:
        model = json.loads(page)["data"][0]
        if _is_model(model):
            return dict(model)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise InputError(
        f"{address.url}: is not a list of models with their max_model_len; fluidgate reads the answers of vLLM"
    )


def _is_model(model: dict[str, Any]) -> bool:
    """Its names go into a command line and a file, its length into a load."""
    names, longest = [model["id"], model.get("root") or model["id"]], model["max_model_len"]
    return (
        all(isinstance(name, str) and name.strip() and name.isprintable() and name[0] != "-" for name in names)
        and type(longest) is int
        and 0 < longest <= MAX_TOKENS
    )
