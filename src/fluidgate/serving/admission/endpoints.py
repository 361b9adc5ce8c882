"""vLLM's ways into the engine's queue: how each names its requests there, and how it says that something went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

_CHAT, _BATCH, _COMPLETION = "chatcmpl-{}", "chatcmpl-{}_#", "cmpl-{}-#"


def openai_error(status: HTTPStatus, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API and vLLM shape it."""
    kind = "BadRequestError" if status == HTTPStatus.BAD_REQUEST else status.phrase.replace(" ", "") + "Error"
    return {"error": {"message": message, "type": kind, "param": param, "code": int(status)}}


_ANTHROPIC_KINDS = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


def anthropic_error(status: HTTPStatus, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as Anthropic's API shapes it, in an answer and in a stream."""
    return {"type": "error", "error": {"type": _ANTHROPIC_KINDS[status], "message": message}}


def cohere_error(status: HTTPStatus, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as Cohere's API shapes it."""
    return {"message": message}


def _response_event(message: str, num_events: int) -> bytes:
    what = {"code": "server_error", "message": message, "param": None, "sequence_number": num_events}
    return _event("error", {"type": "error", **what})


def _message_event(message: str, num_events: int) -> bytes:
    return _event("error", anthropic_error(HTTPStatus.SERVICE_UNAVAILABLE, message))


def _chat_end(message: str, num_events: int) -> bytes:
    end = {"type": "message-end", "delta": {"error": message, "finish_reason": "ERROR"}}
    return b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n"


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


@dataclass(frozen=True)
class Endpoint:
    """One way into the queue.

    Attributes:
        ids: how vLLM 0.32 names the requests that it makes of one with an X-Request-Id; # is a number.
        error: an error's body.
        last_words: of a stream that the engine gives up after its first token, where vLLM's own end would look like
            success: what ends it instead, of the reason and the number of events before; None: vLLM's end says
            `"finish_reason": "abort"`.
        ends: what events that may be such an end have in them.
        preamble: how the events begin that come before the first token.
        is_named_by_answer: whether the answer alone says the request's name in the engine, and `ids` are of that name.
    """

    ids: tuple[str, ...]
    error: Callable[..., dict[str, Any]] = openai_error
    last_words: Callable[[str, int], bytes] | None = None
    ends: tuple[bytes, ...] = ()
    preamble: tuple[bytes, ...] = ()
    is_named_by_answer: bool = False


ENDPOINTS = {
    "/v1/chat/completions": Endpoint((_CHAT,)),
    "/v1/chat/completions/batch": Endpoint((_BATCH,)),
    "/v1/completions": Endpoint((_COMPLETION,)),
    "/v1/responses": Endpoint(
        ("{}_#",),
        last_words=_response_event,
        ends=(b".done\n", b"event: response.completed"),
        preamble=(b"event: response.created\n", b"event: response.in_progress\n"),
        is_named_by_answer=True,
    ),
    "/v1/messages": Endpoint(
        (_CHAT,),
        anthropic_error,
        _message_event,
        ends=(b"event: content_block_stop", b"event: message_delta", b"event: message_stop"),
    ),
    "/cohere/v2/chat": Endpoint((_CHAT,), cohere_error, _chat_end, ends=(b'-end"',)),
    "/inference/v1/generate": Endpoint(("generate-tokens-{}",)),
    "/invocations": Endpoint((_CHAT, _COMPLETION)),
    "/v1/audio/transcriptions": Endpoint(("transcribe-{}", "transcribe-{}-#")),
    "/v1/audio/translations": Endpoint(("translate-{}", "translate-{}-#")),
    "/v1/systemone": Endpoint(("decision-{}-#",)),
    "/generative_scoring": Endpoint(("generative-scoring-{}-#",)),
}
"""Where vLLM 0.32 takes requests for the engine's queue, by path."""
