"""Tokens as answers and chunks of streams tell them, in each shape that servers use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.adapters.answers import tokens_of, usage_of

CHAT = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
RESPONSES = {"input_tokens": 7, "output_tokens": 5}
START = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":7,"output_tokens":0}}}\n\n'
DELTA = b'event: content_block_delta\ndata: {"delta":{"text":"\\"output_tokens\\": 9"}}\n\n'
STOP = b'event: message_delta\ndata: {"usage":{"output_tokens": 5}}\n\n'


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"usage": CHAT}, (7, 5)),
        (SimpleNamespace(usage=SimpleNamespace(**CHAT)), (7, 5)),
        ({"usage": RESPONSES}, (7, 5)),
        (SimpleNamespace(type="response.completed", response=SimpleNamespace(usage=RESPONSES)), (7, 5)),
        (
            {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
            None,
        ),  # LiteLLM puts zeros into every chunk of a text
        ({"usage": None}, None),
        ({}, None),
        (None, None),
        (START, None),
        (STOP, (0, 5)),
        (START + DELTA + STOP, (7, 5)),
        (DELTA, None),
    ],
)
def test_usage(answer: Any, usage: tuple[int, int] | None) -> None:
    assert usage_of(answer) == usage


def choices(*parts: Any) -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(**part) for part in parts])


@pytest.mark.parametrize(
    ("chunk", "tokens"),
    [
        (choices({"delta": {"role": "assistant", "content": ""}}), 0),
        (choices({"delta": {"content": "word"}}), 1),
        (choices({"delta": SimpleNamespace(content=None, reasoning_content="thought")}), 1),
        (choices({"delta": {"tool_calls": [{"index": 0}]}}), 1),
        (choices({"delta": {"content": "word"}}, {"delta": {"content": "Wort"}}), 2),
        (choices({"text": "word"}), 1),
        (choices({"text": "", "finish_reason": "stop"}), 0),
        (choices(), 0),
        ({"choices": [{"text": "word"}]}, 1),
        (SimpleNamespace(type="response.output_text.delta", delta="word"), 1),
        (SimpleNamespace(type=SimpleNamespace(value="response.output_text.delta")), 1),
        (SimpleNamespace(type="response.completed"), 0),
        (START + DELTA + DELTA + STOP, 2),
    ],
)
def test_tokens_of_a_chunk(chunk: Any, tokens: int) -> None:
    assert tokens_of(chunk) == tokens
