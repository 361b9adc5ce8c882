"""ShareGPT conversations (JSON): a list of `{"conversations": [{"from": "human", "value": text}, …]}`.

Lengths follow vLLM's benchmark: the first human turn is the prompt, the gpt turn right after it is the
output. Source: vllm/benchmarks/datasets.py. There are no arrival times. Lengths already counted come as CSV:
see `vidur`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.bounds import MAX_COUNT
from fluidgate.errors import InputError
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._files import read_json
from fluidgate.workload.formats._finish import drop_failed, finish

CHARACTERS_PER_TOKEN = 4


def four_characters(text: str) -> int:
    """Tokens of a text, roughly: one per four characters, rounded up, whitespace at both ends left off."""
    return -(-len(text.strip()) // CHARACTERS_PER_TOKEN)


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("[")


def read(
    path: Path, *, count_tokens: Callable[[str], int] = four_characters, failed: str = "stop"
) -> tuple[Workload, str]:
    """The lengths as a workload that arrives at once, and a note.

    Args:
        count_tokens: tokens of a text, such as `lambda text: len(tokenizer(text).input_ids)`. The default is
            an approximation, one token per four characters, and the note says so.
        failed: "stop" at a conversation that does not open with a human turn and a gpt turn of at least one
            token each, or "drop" such conversations and report how many.

    Errors: InputError at the first conversation that cannot be used.
    """
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}:1: not a list of conversations; give the ShareGPT JSON as published")
    texts = [_first_exchange(path, i, item) for i, item in enumerate(items)]
    lengths = np.array([(_count(count_tokens, p, path), _count(count_tokens, o, path)) for p, o in texts], np.int64)
    bad = lengths.min(axis=1) < 1
    why = "does not open with a human turn and a gpt turn of at least one token each"
    keep, remarks = drop_failed(path, failed, bad, f": conversation {np.argmax(bad)}", why)
    if count_tokens is four_characters:
        remarks.append(
            f"tokens approximated as {CHARACTERS_PER_TOKEN} characters each; pass count_tokens to count them"
        )
    return finish(path, None, lengths[keep, 0], lengths[keep, 1], rows=len(items), remarks=remarks)


def _first_exchange(path: Path, number: int, item: Any) -> tuple[str, str]:
    """The first prompt and answer; empty texts when the conversation does not open with them."""
    where = f"{path}: conversation {number}"
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list):
        raise InputError(f"{where}: no list 'conversations'; correct or remove it")
    for turn in turns[:2]:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or "from" not in turn:
            raise InputError(f"{where}: a turn without 'from' and a text 'value'; correct or remove it")
    if [turn["from"] for turn in turns[:2]] != ["human", "gpt"]:
        return "", ""
    return turns[0]["value"], turns[1]["value"]


def _count(count_tokens: Callable[[str], int], text: str, path: Path) -> int:
    count = count_tokens(text) if text else 0
    if not isinstance(count, int | np.integer) or not 0 <= count <= MAX_COUNT:
        raise InputError(
            f"{path}: count_tokens gave {count!r} for {text[:40]!r}; it must give a whole number, at least 0"
        )
    return int(count)
