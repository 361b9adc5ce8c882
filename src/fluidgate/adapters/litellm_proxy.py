"""What the adapter for LiteLLM reads of its proxy: deployments and their servers, settings, and kinds of errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from math import ceil, inf
from typing import Any

import aiohttp
import httpx
from litellm.proxy._types import ProxyException

from fluidgate.adapters.entrance import Refused
from fluidgate.vllm_metrics import Address

logger = logging.getLogger("fluidgate")

_OUT_OF_REACH = (
    ConnectionError,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ConnectTimeout,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
)


def say_what_is_gated(models: Collection[str], deployments: Collection[Mapping[str, Any]]) -> None:
    """Say once in the log what waits, and what keeps the gate from working well.

    Args:
        models: the model groups that are to be gated.
        deployments: LiteLLM's deployments of these.
    """
    servers = sorted({server_of(one)[0] for one in deployments} - {""})
    names = ", ".join(sorted(models))
    logger.info(
        "fluidgate: requests to %s wait at the gate before %s; all others pass", names, ", ".join(servers) or "none"
    )
    for model in sorted(set(models) - {one["model_name"] for one in deployments}):
        logger.warning("fluidgate: LiteLLM has no model group %s; name it as config.yaml does", model)
    for one in deployments:
        if not server_of(one)[0]:
            logger.warning(
                "fluidgate: a deployment of %s has no api_base, so requests to this group do not wait at the gate; "
                "give it the address of its server, such as http://HOST:8000/v1",
                one["model_name"],
            )
    if not (in_proxy("general_settings") or {}).get("cancel_on_disconnect"):
        logger.warning(
            "fluidgate: requests stay in the queue when their clients have gone; set cancel_on_disconnect: true "
            "under general_settings of config.yaml"
        )
    if not getattr(in_proxy("llm_router"), "disable_cooldowns", None):
        logger.warning(
            "fluidgate: LiteLLM leaves servers out for seconds after an error, which the gate does itself where "
            "they do not answer; set disable_cooldowns: true under router_settings of config.yaml"
        )


def server_of(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """Name and address of a deployment's server; "" where it has none."""
    base = deployment["litellm_params"].get("api_base") or ""
    if not base:
        return "", ""
    address = Address.of(str(base).rstrip("/").removesuffix("/v1"))
    return address.url.partition("://")[2], address.url


def out_of_reach(error: BaseException | None) -> bool:
    """Whether an attempt failed because its server could not be reached, or broke off."""
    for _ in range(20):
        if error is None:
            return False
        if isinstance(error, _OUT_OF_REACH):
            return not isinstance(error, aiohttp.ServerTimeoutError)
        error = error.__cause__ or error.__context__ or getattr(error, "original_exception", None)
    return False


def in_proxy(name: str) -> Any:
    """What LiteLLM's proxy has under a name; it makes its router after its callbacks."""
    return getattr(sys.modules.get("litellm.proxy.proxy_server"), name, None)


def let_it_be_heard() -> None:
    """Write this package's log to standard error where nothing else was arranged: LiteLLM arranges its own alone."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


class TurnedAway(ProxyException):
    """What a client is told whose request is not let in, in the shape of OpenAI's errors.

    Attributes:
        status_code: by which LiteLLM's router decides: 400 is not tried again anywhere.
    """

    def __init__(self, message: str, code: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message=message, type=kind, param=None, code=code, headers=dict(headers or {}))
        self.status_code = 400


def turned_away(refused: Refused) -> TurnedAway:
    if refused.retry_after_s == inf:
        return TurnedAway(str(refused), 400, "invalid_request_error")
    retry_after = {"Retry-After": str(max(1, ceil(refused.retry_after_s)))}
    return TurnedAway(str(refused), 429, "rate_limit_error", retry_after)
