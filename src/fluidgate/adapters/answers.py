"""What the answer of a model server says of its tokens, in the shapes of OpenAI's and Anthropic's APIs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_IN_BYTES = tuple(re.compile(rb'"%s": ?(\d+)' % name) for name in (b"input_tokens", b"output_tokens"))
_DELTA = b"event: content_block_delta"
_USAGES = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_TEXTS = ("text", "content", "reasoning_content", "reasoning", "tool_calls")


def usage_of(answer: Any) -> tuple[int, int] | None:
    """Tokens of prompt and output, from an answer or a chunk of a stream; None: it does not say.

    Args:
        answer: a mapping or an object, or the bytes of Anthropic's events, which tell the prompt's tokens elsewhere
            than the output's: then those are 0.
    """
    if isinstance(answer, bytes):
        prompt, output = ([int(count) for count in name.findall(answer)] for name in _IN_BYTES)
        return (prompt[-1] if prompt else 0, output[-1]) if output and output[-1] > 0 else None
    usage = _get(answer, "usage") or _get(_get(answer, "response"), "usage")
    for names in _USAGES:
        prompt_tokens, output_tokens = (_get(usage, name) for name in names)
        if isinstance(prompt_tokens, int) and isinstance(output_tokens, int) and output_tokens > 0:
            return prompt_tokens, output_tokens
    return None


def tokens_of(chunk: Any) -> int:
    """Tokens in a chunk of a stream: 1 for each choice that has got text. Servers may put several into one chunk."""
    if isinstance(chunk, bytes):
        return chunk.count(_DELTA)
    choices = _get(chunk, "choices")
    if choices is None:
        kind = _get(chunk, "type")
        return int(str(getattr(kind, "value", kind)).endswith(".delta"))
    return sum(
        any(_get(part, text) for part in (choice, _get(choice, "delta")) for text in _TEXTS) for choice in choices
    )


def _get(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
