"""`PromptSizes`: how many tokens a prompt has, told from its text; what a token is long is learned from answers."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

FIRST_CHARACTERS_PER_TOKEN = 4.0
REMEMBERED = 20_000.0
"""Tokens of prompts over which the length of a token is taken, exponentially weighted."""

_WITH_TEXT = ("messages", "prompt", "prompt_token_ids", "input", "inputs", "content", "text")
"""Where requests and their parts keep what they ask, by OpenAI's and vLLM's names."""


class PromptSizes:
    """The size of prompts. Those given as numbers of tokens are counted; texts are measured."""

    def __init__(self) -> None:
        self._characters = REMEMBERED * FIRST_CHARACTERS_PER_TOKEN
        self._tokens = REMEMBERED

    def tokens(self, request: Any) -> int:
        """Tokens of a prompt, at least 1: a text, token ids, messages, or a request (mapping or object) with them."""
        characters, tokens = measure(request)
        return max(1, tokens + round(characters * self._tokens / self._characters))

    def learn(self, request: Any, prompt_tokens: int) -> None:
        """A prompt had so many tokens, as its server has counted."""
        characters, tokens = measure(request)
        counted = prompt_tokens - tokens
        if characters > 0 and counted > 0:
            kept = REMEMBERED / (REMEMBERED + counted)
            self._characters = kept * (self._characters + characters)
            self._tokens = kept * (self._tokens + counted)


def measure(request: Any) -> tuple[int, int]:
    """Characters of text in a request's prompt, and tokens that are given as such."""
    if isinstance(request, str | bytes):
        return len(request), 0
    if isinstance(request, bool) or request is None:
        return 0, 0
    if isinstance(request, int):
        return 0, 1
    if isinstance(request, Sequence):
        if request and all(type(token) is int for token in request):
            return 0, len(request)
        parts = [measure(part) for part in request]
    elif isinstance(request, Mapping):
        parts = [measure(request.get(name)) for name in _WITH_TEXT]
    else:
        parts = [measure(getattr(request, name, None)) for name in _WITH_TEXT]
    return sum(characters for characters, _ in parts), sum(tokens for _, tokens in parts)


def prompt_name(body: Any) -> str:
    """A name that equal prompts share: texts, token ids, or messages by what they show of themselves."""
    if isinstance(body, bytes):
        data = body
    elif isinstance(body, list) and body and all(type(token) is int for token in body):
        data = array("q", body).tobytes()
    else:
        data = (body if isinstance(body, str) else repr(body)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()
