"""Qwen-Bailian usage traces (JSON lines): `chat_id`, `parent_chat_id`, `timestamp` in seconds, lengths, `hash_ids`.

Source: github.com/alibaba-edu/qwen-bailian-usagetraces-anon, and docs/tutorials/bailian-trace.md of aiperf. A hash id
is of the content of a block of 16 tokens alone, not of what is before it; a workload's ids are of both. Every turn is
sent at its time in the trace. `type` becomes the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluidgate.workload.core import Workload
from fluidgate.workload.formats import mooncake
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.logs import PER_S, check_unit

BLOCK_TOKENS = 16


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    first = head.split("\n", 1)[0]
    return first.startswith("{") and '"chat_id"' in first and '"input_length"' in first


def read(path: Path, *, block_tokens: int | None = None, time_unit: str | None = None) -> tuple[Workload, str]:
    """The workload with its prefix-block ids, and a note.

    Args:
        block_tokens: tokens per hash id; None: as the file says, else 16.
        time_unit: "s", "ms", "us" or "ns"; None: s.

    Errors: InputError at the first line that cannot be used.
    """
    check_unit(time_unit)
    rows = mooncake.parse(path)
    prompt, output = (mooncake.tokens(path, rows, key) for key in ("input_length", "output_length"))
    size = mooncake.block_size(path, rows, block_tokens, BLOCK_TOKENS)
    hash_ids = mooncake.hash_ids(path, rows, prompt, size)
    clock, unit, known = mooncake.times(path, rows, time_unit, "s")
    later = sum(row.get("parent_chat_id", -1) != -1 for row in rows)
    remarks = [f"times in {unit}, {known}", *([f"{later:,} later turns, sent at their own times"] if later else [])]
    return finish(
        path,
        clock / PER_S[unit],
        prompt,
        output,
        rows=len(rows),
        classes=_classes(rows),
        hash_ids=_with_prefix(hash_ids),
        block_tokens=size,
        remarks=remarks,
    )


def _classes(rows: mooncake.Rows) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], tuple[str, ...]] | None:
    """The types as classes, where every request has one."""
    kinds = [row.get("type") for row in rows]
    if not all(isinstance(kind, str) and kind and kind.isprintable() for kind in kinds):
        return None
    names, index = np.unique(np.array(kinds), return_inverse=True)
    return index.astype(np.int64), tuple(names.tolist())


def _with_prefix(hash_ids: list[list[int]]) -> Sequence[Sequence[int]]:
    """Ids that are equal where the block is, and all blocks before it are."""
    number: dict[tuple[int, int], int] = {}
    out = []
    for ids in hash_ids:
        before, own = -1, []
        for block in ids:
            before = number.setdefault((before, block), len(number))
            own.append(before)
        out.append(own)
    return out
