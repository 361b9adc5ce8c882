"""Mooncake traces (JSON lines): `timestamp` in ms, `input_length`, `output_length`, optional `hash_ids`.

Source: github.com/kvcache-ai/Mooncake, FAST'25 release. `hash_ids` are content ids of the prompt's 512-token
blocks: equal ids mean equal content up to the end of that block. Two keys are our additions, written only
when needed: `class`, and `block_tokens` for blocks of another size.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_COUNT, MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import has_control, shown
from fluidgate.workload._random import random_streams
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._files import json_line, read_text, refuse, write_text
from fluidgate.workload.formats._finish import finish

BLOCK_TOKENS = 512
_INT64_MAX = 2**63 - 1

Rows = list[dict[str, Any]]


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and '"input_length"' in head.split("\n", 1)[0]


def read(path: Path, *, jitter_seed: int | None = None) -> tuple[Workload, str]:
    """The workload with its prefix-block ids, and a note.

    Args:
        jitter_seed: the published timestamps come in batches; given a seed, the requests that share a
            timestamp are spread uniformly over the time to the next one (the last batch: over the median
            such time), in file order.

    Errors: InputError at the first line that cannot be parsed.
    """
    rows = _parse(path)
    time_ms = _milliseconds(path, rows)
    prompt, output = (_tokens(path, rows, key) for key in ("input_length", "output_length"))
    block_tokens = _block_tokens(path, rows)
    hash_ids = _hash_ids(path, rows, prompt, block_tokens)
    remarks = []
    if jitter_seed is not None:
        time_ms, spread = _jitter(path, time_ms, jitter_seed)
        remarks.append(f"{spread:,} requests spread inside their batch (jitter seed {jitter_seed})")
    return finish(
        path,
        time_ms / 1e3,
        prompt,
        output,
        rows=len(rows),
        classes=_classes(path, rows),
        hash_ids=hash_ids,
        block_tokens=block_tokens,
        remarks=remarks,
    )


def write_mooncake(workload: Workload, path: str | Path) -> None:
    """Write the workload as Mooncake's JSON lines, gzipped when `path` ends in `.gz`.

    Timestamps keep fractions of a millisecond, so times survive to the last bit but one (the unit changes).
    Errors: InputError when the file cannot be written.
    """
    extra: dict[str, Any] = {}
    if workload.prefix_block_tokens not in (0, BLOCK_TOKENS):
        extra["block_tokens"] = workload.prefix_block_tokens
    ids, ends = workload.prefix_ids.tolist(), workload.prefix_offsets.tolist()
    columns = (workload.arrival_s * 1e3, workload.prompt_tokens, workload.output_tokens, workload.class_id)
    lines = []
    for i, (time_ms, prompt, output, kind) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        row = {"timestamp": time_ms, "input_length": prompt, "output_length": output}
        if ids:
            row["hash_ids"] = ids[ends[i] : ends[i + 1]]
        if len(workload.class_names) > 1:
            row["class"] = workload.class_names[kind]
        lines.append(json.dumps(row | extra))
    write_text(Path(path), "\n".join(lines) + "\n")


def _parse(path: Path) -> Rows:
    return [json_line(path, number, line) for number, line in enumerate(read_text(path).split("\n"), 1)]


def _numbers(path: Path, rows: Rows, key: str) -> FloatArray:
    values = [row.get(key) for row in rows]
    if not set(map(type, values)) <= {int, float}:
        for number, (row, value) in enumerate(zip(rows, values, strict=True), 1):
            if key not in row:
                refuse(path, number, f"no {key!r} in this request; add it or remove the line")
            if type(value) not in (int, float):
                refuse(path, number, f"{key} = {shown(value)} is not a number; correct or remove the line")
    # A number too long for a float parses as a Python integer; it is as good as infinite here.
    numbers = np.array([v if abs(v) < 1e300 else np.inf for v in values], np.float64)  # type: ignore[arg-type]
    _refuse_where(path, rows, key, ~np.isfinite(numbers), "is not finite; correct or remove the line")
    return numbers


def _milliseconds(path: Path, rows: Rows) -> FloatArray:
    time_ms = _numbers(path, rows, "timestamp")
    _refuse_where(
        path, rows, "timestamp", np.abs(time_ms) > 1e3 * MAX_SECONDS, "is more than 272 years; give milliseconds"
    )
    return time_ms


def _tokens(path: Path, rows: Rows, key: str) -> IntArray:
    numbers = _numbers(path, rows, key)
    whole = numbers == np.floor(numbers)
    _refuse_where(path, rows, key, ~whole, "is not a whole number of tokens; correct or remove the line")
    _refuse_where(path, rows, key, numbers < 1, "must be at least 1; correct or remove the line")
    _refuse_where(path, rows, key, numbers > MAX_COUNT, "is too large for a token count; correct the line")
    return numbers.astype(np.int64)


def _block_tokens(path: Path, rows: Rows) -> int:
    size = rows[0].get("block_tokens", BLOCK_TOKENS)
    if type(size) is not int or not 1 <= size <= MAX_COUNT:
        refuse(path, 1, f"block_tokens = {shown(size)} is not a whole number of tokens, at least 1; correct it")
    for number, row in enumerate(rows, 1):
        if row.get("block_tokens", BLOCK_TOKENS) != size:
            refuse(path, number, f"block_tokens differs from {size} on line 1; use one size in the whole file")
    return size


def _hash_ids(path: Path, rows: Rows, prompt: IntArray, block_tokens: int) -> list[list[int]]:
    hash_ids = [row.get("hash_ids", []) for row in rows]
    if not set(map(type, hash_ids)) <= {list}:
        number = next(i for i, ids in enumerate(hash_ids, 1) if type(ids) is not list)
        refuse(path, number, "hash_ids is not a list; give a list of whole numbers, or leave it out")
    if not set(map(type, chain.from_iterable(hash_ids))) <= {int}:
        number = next(i for i, ids in enumerate(hash_ids, 1) if any(type(id_) is not int for id_ in ids))
        refuse(path, number, "hash_ids holds something that is not a whole number; correct or remove the line")
    for number, (ids, tokens) in enumerate(zip(hash_ids, prompt.tolist(), strict=True), 1):
        if len(ids) > -(-tokens // block_tokens):
            what = f"{len(ids)} hash_ids of {block_tokens} tokens for a prompt of {tokens}"
            refuse(path, number, f"{what}; correct the line, or set block_tokens on every line")
        if ids and (max(ids) > _INT64_MAX or min(ids) < -_INT64_MAX):
            refuse(path, number, "hash_ids holds a number beyond 64 bits; renumber the blocks")
    return hash_ids


def _classes(path: Path, rows: Rows) -> tuple[IntArray, tuple[str, ...]] | None:
    labels = [row.get("class") for row in rows]
    kinds = set(map(type, labels))
    if kinds == {type(None)}:
        return None
    if kinds != {str}:
        number = next(i for i, name in enumerate(labels, 1) if type(name) is not str)
        refuse(path, number, "this request has no class name and others have; name all or none")
    for number, name in enumerate(labels, 1):
        if has_control(name):  # type: ignore[arg-type]
            refuse(path, number, f"class {shown(name)} holds a control character; take it out")
    names = tuple(sorted(set(labels)))  # type: ignore[type-var]
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[name] for name in labels], np.int64), names  # type: ignore[return-value]


def _refuse_where(path: Path, rows: Rows, key: str, bad: BoolArray, why: str) -> None:
    if bad.any():
        number = int(np.argmax(bad))
        refuse(path, number + 1, f"{key} = {shown(rows[number][key])} {why}")


def _jitter(path: Path, time_ms: FloatArray, seed: int) -> tuple[FloatArray, int]:
    starts, batch, sizes = np.unique(time_ms, return_inverse=True, return_counts=True)
    if len(starts) == 1:
        raise InputError(f"{path}: one timestamp for all requests, no gap to spread them over; leave jitter out")
    gaps = np.diff(starts)
    gaps = np.append(gaps, np.median(gaps))
    shared = sizes[batch] > 1
    offset = np.random.default_rng(*random_streams(seed, 1)).random(len(time_ms)) * gaps[batch] * shared
    # Sorting the offsets inside each batch keeps the requests of a batch in file order.
    in_batch = np.argsort(batch, kind="stable")
    offset[in_batch] = offset[np.lexsort((offset, batch))]
    return time_ms + offset, int(shared.sum())
