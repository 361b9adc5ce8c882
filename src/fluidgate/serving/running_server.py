"""`RunningServer`: what a vLLM server says of itself before it is measured. The names are those of vLLM 0.32."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fluidgate.doctor import Scrape, fetch
from fluidgate.errors import InputError

TIMEOUT_S = 10.0
NEEDED = (
    "iteration_tokens_total",
    "time_to_first_token_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)
"""Histograms without which steps cannot be told."""


@dataclass(frozen=True)
class RunningServer:
    """A vLLM server with one idle engine.

    Attributes:
        url: its address, without a path.
        model: the name that requests give.
        tokenizer: where the model, and its tokenizer with it, was loaded from.
        max_model_len: most tokens of a request, prompt and output.
        num_gpu_blocks, block_size: its KV memory; one block is the null block.
    """

    url: str
    model: str
    tokenizer: str
    max_model_len: int
    num_gpu_blocks: int
    block_size: int

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return (self.num_gpu_blocks - 1) * self.block_size

    def scrape(self) -> Scrape:
        """Its metrics now."""
        return fetch(self.url)


def look_at(url: str) -> RunningServer:
    """The server at an address.

    Raises:
        InputError: it is not vLLM, has several engines, is at work, decodes speculatively, or does not say what is
            needed.
    """
    scrape = fetch(url)
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    _refuse(scrape, base)
    blocks, size = scrape.setting("num_gpu_blocks"), scrape.setting("block_size")
    if not (blocks and size and blocks.isdecimal() and size.isdecimal() and int(blocks) > 1 and int(size) > 0):
        raise InputError(
            f"{base}: does not state num_gpu_blocks and block_size in vllm:cache_config_info, so the size of the KV "
            "cache is unknown; calibrate from measured steps instead: `fluidgate calibrate steps`"
        )
    model = _first_model(base)
    return RunningServer(
        url=base,
        model=str(model["id"]),
        tokenizer=str(model.get("root") or model["id"]),
        max_model_len=int(model["max_model_len"]),
        num_gpu_blocks=int(blocks),
        block_size=int(size),
    )


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
            f"{base}: {at_work:g} requests run or wait there; calibrate a server that serves nobody else meanwhile"
        )


def _first_model(base: str) -> dict[str, Any]:
    """The base model; adapters come after it."""
    url = f"{base}/v1/models"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            page = json.loads(answer.read())
        model = page["data"][0]
        if isinstance(model["id"], str) and int(model["max_model_len"]) > 0:
            return dict(model)
    except urllib.error.HTTPError as error:
        raise InputError(
            f"{url}: the server answers HTTP {error.code} ({error.reason}); a key that it asks for cannot be given, so "
            "start it without --api-key for the calibration"
        ) from None
    except OSError as error:
        raise InputError(f"{url}: no answer ({getattr(error, 'reason', error)}); is the server up?") from None
    except (ValueError, LookupError, TypeError):
        pass
    raise InputError(f"{url}: is not a list of models with their max_model_len; fluidgate reads the answers of vLLM")
