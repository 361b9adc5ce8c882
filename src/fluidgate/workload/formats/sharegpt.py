"""ShareGPT conversations (JSON): a list of `{"conversations": [{"from": "human", "value": text}, …]}`.

As vLLM's benchmark reads them (vllm/benchmarks/datasets.py, `ShareGPTDataset`): the first turn is the prompt and the
second the output, whoever speaks, since the published file is cut into parts; a conversation of fewer than two turns is
left out. There are no arrival times. Lengths already counted come as CSV: see `vidur`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.bounds import MAX_COUNT, check_number
from fluidgate.errors import InputError
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._files import read_json
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.logs import drop_failed

CHARACTERS_PER_TOKEN = 4.0
"""Of English text (help.openai.com, "What are tokens and how to count them?")."""
TOKENS_PER_WIDE = 0.6
"""Of a Chinese character (api-docs.deepseek.com/quick_start/token_usage); taken for Japanese and Korean, too."""

_WIDE = (
    *((0x1100, 0x11FF), (0x2E80, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F)),
    *((0xFF00, 0xFFEF), (0x20000, 0x3FFFF)),
)
"""Blocks of Unicode with the scripts of Chinese, Japanese and Korean, and their punctuation."""


def approximate(text: str, characters_per_token: float | None = None) -> int:
    """Tokens of a text, roughly, rounded up; whitespace at both ends left off.

    Args:
        characters_per_token: of every character alike; None: `CHARACTERS_PER_TOKEN`, and for each Chinese, Japanese or
            Korean one `TOKENS_PER_WIDE` tokens.
    """
    text = text.strip()
    if characters_per_token is not None:
        return int(np.ceil(len(text) / characters_per_token))
    if text.isascii():
        wide = 0
    else:
        points = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
        wide = int(sum(((first <= points) & (points <= last)).sum() for first, last in _WIDE))
    return int(np.ceil((len(text) - wide) / CHARACTERS_PER_TOKEN + wide * TOKENS_PER_WIDE - 1e-9))


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("[") and '"conversations"' in head


def read(
    path: Path,
    *,
    count_tokens: Callable[[str], int] | None = None,
    characters_per_token: float | None = None,
    failed: str = "stop",
) -> tuple[Workload, str]:
    """The lengths as a workload that arrives at once, and a note.

    Args:
        count_tokens: tokens of a text, such as `lambda text: len(tokenizer(text).input_ids)`; None: `approximate`, and
            the note says so.
        characters_per_token: for `approximate`.
        failed: "stop" at a conversation whose first or second turn is empty, or "drop" such conversations and report
            how many.

    Errors: InputError at the first conversation that cannot be used.
    """
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}:1: not a list of conversations; give the ShareGPT JSON as published")
    if characters_per_token is not None:
        check_number("characters_per_token", characters_per_token, 0.1, 100.0, "characters")
        if count_tokens is not None:
            raise InputError("characters_per_token stands for a count of tokens: leave it or count_tokens out")
    texts = [_first_two(path, i, item) for i, item in enumerate(items)]
    numbers = [i for i, pair in enumerate(texts) if pair is not None]
    if not numbers:
        raise InputError(f"{path}: every conversation has fewer than two turns; give the ShareGPT JSON as published")
    count = count_tokens or partial(approximate, characters_per_token=characters_per_token)
    lengths = np.array([[_count(count, text, path) for text in pair] for pair in texts if pair is not None], np.int64)
    bad = lengths.min(axis=1) < 1
    why = "one of its first two turns has no token"
    keep, dropped = drop_failed(path, failed, bad, f": conversation {numbers[int(np.argmax(bad))]}", why)
    short = len(items) - len(numbers)
    remarks = [f"{short:,} conversations of fewer than two turns left out"] if short else []
    remarks += dropped
    if count_tokens is None:
        remarks.append(_how_counted(characters_per_token))
    return finish(path, None, lengths[keep, 0], lengths[keep, 1], rows=len(items), remarks=remarks)


def _how_counted(characters_per_token: float | None) -> str:
    if characters_per_token is not None:
        return f"tokens approximated as {characters_per_token:g} characters each"
    return (
        f"tokens approximated as {CHARACTERS_PER_TOKEN:g} characters each, and {TOKENS_PER_WIDE:g} for a Chinese, "
        "Japanese or Korean one; give --characters-per-token, or count_tokens from Python, to count otherwise"
    )


def _first_two(path: Path, number: int, item: Any) -> tuple[str, str] | None:
    """The texts of the first two turns; None where there are fewer."""
    where = f"{path}: conversation {number}"
    turns = item.get("conversations") if isinstance(item, dict) else None
    if not isinstance(turns, list):
        raise InputError(f"{where}: no list 'conversations'; correct or remove it")
    for turn in turns[:2]:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise InputError(f"{where}: a turn without a text 'value'; correct or remove it")
    return (turns[0]["value"], turns[1]["value"]) if len(turns) >= 2 else None


def _count(count_tokens: Callable[[str], int], text: str, path: Path) -> int:
    count = count_tokens(text) if text else 0
    if not isinstance(count, int | np.integer) or not 0 <= count <= MAX_COUNT:
        raise InputError(
            f"{path}: count_tokens gave {count!r} for {text[:40]!r}; it must give a whole number, at least 0"
        )
    return int(count)
