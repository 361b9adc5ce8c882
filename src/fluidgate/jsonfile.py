"""JSON from outside, strictly: a key that is given twice in one object is damage, not a choice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


class DuplicateKey(ValueError):
    """A key that one object gives twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r:.60} is given twice in one object; keep one")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs: the `object_pairs_hook` of every reader.

    Raises:
        DuplicateKey: a key twice, of which Python would keep the last.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        count = Counter(key for key, _ in pairs)
        raise DuplicateKey(next(key for key in count if count[key] > 1))
    return values


decode = json.JSONDecoder(object_pairs_hook=unique_keys).decode
"""`json.loads` without a choice between two values of one key.

Raises JSONDecodeError, DuplicateKey, and Python's ValueError or RecursionError for numbers too long or lists too deep.
"""
