"""Mooncake traces (JSON lines): `timestamp` in ms, `input_length`, `output_length`, optional `hash_ids`.

Source: github.com/kvcache-ai/Mooncake, FAST'25 release. `hash_ids` are content ids of the prompt's 512-token
blocks: equal ids mean equal content up to the end of that block. Sessions are as aiperf and dynamo write them: lines
of one `session_id` are its turns in order, each sent when the reply before it has come and the time to think is over,
`delay` in ms, and not before its `timestamp` if it has one. Three keys are our additions, written only when needed:
`class`, `block_tokens` for blocks of another size, and `ids_cover_replies` where `hash_ids` go on through the reply.

guidellm's traces have the same three keys and count seconds (docs/guides/datasets.md): without a key of `MARKS` the
unit is asked for where the times do not tell it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_COUNT, MAX_SECONDS, check_whole
from fluidgate.errors import InputError
from fluidgate.words import has_control, shown
from fluidgate.workload._random import random_streams
from fluidgate.workload._turns import first_turn_of
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._files import json_line, read_text, refuse, write_text
from fluidgate.workload.formats._finish import finish
from fluidgate.workload.formats._sessions import read_turns
from fluidgate.workload.logs import PER_S, Column, certain_unit, check_unit

BLOCK_TOKENS = 512
MARKS = ("hash_ids", "session_id", "delay", "class", "block_tokens", "ids_cover_replies")
"""Keys that guidellm's traces do not have."""
_INT64_MAX = 2**63 - 1
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

Rows = list[dict[str, Any]]


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and '"input_length"' in head.split("\n", 1)[0]


def read(
    path: Path, *, jitter_seed: int | None = None, block_tokens: int | None = None, time_unit: str | None = None
) -> tuple[Workload, str]:
    """The workload with its prefix-block ids and its sessions, and a note.

    Args:
        block_tokens: tokens per content id, where the file does not say; None: 512.
        jitter_seed: the published timestamps come in batches; given a seed, the requests that share a
            timestamp are spread uniformly over the time to the next one (the last batch: over the median
            such time), in file order.
        time_unit: "s", "ms", "us" or "ns", of all times in the file; None: ms, if it has one of `MARKS`.

    Errors: InputError at the first line that cannot be parsed.
    """
    check_unit(time_unit)
    rows = parse(path)
    sessions = read_turns(path, rows)
    if sessions is not None:
        clock = sessions.time
        unit, known = certain_unit(_clock(path, clock), clock, time_unit, "ms")
    else:
        marked = any(key in row for row in rows for key in MARKS)
        clock, unit, known = times(path, rows, time_unit, "ms" if marked else None)
    prompt, output = (tokens(path, rows, key) for key in ("input_length", "output_length"))
    size = block_size(path, rows, block_tokens)
    covers = _cover_replies(path, rows)
    ids = hash_ids(path, rows, prompt + output if covers else prompt, size)
    remarks = [f"times in {unit}, {known}"]
    if jitter_seed is not None:
        if sessions is not None:
            raise InputError(f"{path}: turns of sessions have times of their own; leave jitter out")
        clock, spread = _jitter(path, clock, jitter_seed)
        remarks.append(f"{spread:,} requests spread inside their batch (jitter seed {jitter_seed})")
    workload, note = finish(
        path,
        clock / PER_S[unit],
        prompt,
        output,
        rows=len(rows),
        classes=_classes(path, rows),
        hash_ids=ids,
        block_tokens=size,
        turns=None if sessions is None else (sessions.after, sessions.delay / PER_S[unit]),
        remarks=remarks,
    )
    return replace(workload, ids_cover_replies=covers), note


def write_mooncake(workload: Workload, path: str | Path) -> None:
    """Write the workload as Mooncake's JSON lines, gzipped when `path` ends in `.gz`.

    Timestamps keep fractions of a millisecond, so times survive to the last bit but one (the unit changes). Concurrency
    and timeouts are not part of the format; `write_vidur` keeps the latter.
    Errors: InputError when the file cannot be written, and for sessions that are no chains of turns.
    """
    if workload.has_sessions and np.bincount(workload.after[workload.after >= 0]).max(initial=0) > 1:
        raise InputError(f"{workload.name}: several turns follow one reply, for which the format has no place")
    extra: dict[str, Any] = {}
    if workload.prefix_block_tokens not in (0, BLOCK_TOKENS):
        extra["block_tokens"] = workload.prefix_block_tokens
    if workload.ids_cover_replies:
        extra["ids_cover_replies"] = True
    ids, ends = workload.prefix_ids.tolist(), workload.prefix_offsets.tolist()
    session = first_turn_of(workload.after).tolist() if workload.has_sessions else []
    columns = (workload.arrival_s * 1e3, workload.prompt_tokens, workload.output_tokens, workload.class_id)
    lines = []
    for i, (time_ms, prompt, output, kind) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        row = {"timestamp": time_ms, "input_length": prompt, "output_length": output}
        if ids or not session:  # without them it would be one of guidellm's
            row["hash_ids"] = ids[ends[i] : ends[i + 1]]
        if len(workload.class_names) > 1:
            row["class"] = workload.class_names[kind]
        if session:
            row |= {"session_id": str(session[i]), "delay": float(workload.delay_s[i]) * 1e3}
        lines.append(json.dumps(row | extra))
    write_text(Path(path), "\n".join(lines) + "\n")


def parse(path: Path) -> Rows:
    """The requests of a file. Errors: InputError at the first line that is no JSON object."""
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


def times(path: Path, rows: Rows, told: str | None, fixed: str | None) -> tuple[FloatArray, str, str]:
    """The timestamps, their unit and how that is known; arguments and errors as of `certain_unit`."""
    clock = _numbers(path, rows, "timestamp")
    unit, known = certain_unit(_clock(path, clock), clock, told, fixed)
    why = f"is more than 272 years; give {_UNIT_NAMES[unit]}"
    _refuse_where(path, rows, "timestamp", np.abs(clock) > PER_S[unit] * MAX_SECONDS, why)
    return clock, unit, known


def _clock(path: Path, clock: FloatArray) -> Column:
    import pyarrow as pa

    return Column(path, "timestamp", pa.array(clock), lambda row: f":{row + 1}")


def tokens(path: Path, rows: Rows, key: str) -> IntArray:
    """The lengths of this key. Errors: InputError at the first that is no whole number, at least 1."""
    numbers = _numbers(path, rows, key)
    whole = numbers == np.floor(numbers)
    _refuse_where(path, rows, key, ~whole, "is not a whole number of tokens; correct or remove the line")
    _refuse_where(path, rows, key, numbers < 1, "must be at least 1; correct or remove the line")
    _refuse_where(path, rows, key, numbers > MAX_COUNT, "is too large for a token count; correct the line")
    return numbers.astype(np.int64)


def _cover_replies(path: Path, rows: Rows) -> bool:
    covers = [row.get("ids_cover_replies", False) for row in rows]
    for number, said in enumerate(covers, 1):
        if said is not covers[0] or type(said) is not bool:
            refuse(path, number, f"ids_cover_replies = {shown(said)} is not true, or not on all lines; correct it")
    return bool(covers[0])


def block_size(path: Path, rows: Rows, given: int | None, standard: int = BLOCK_TOKENS) -> int:
    """Tokens per hash id: as given, as the lines say, or the format's `standard`."""
    if given is not None:
        check_whole("block_tokens", given, 1, MAX_COUNT)
        for number, row in enumerate(rows, 1):
            if row.get("block_tokens", given) != given:
                refuse(path, number, f"block_tokens = {shown(row['block_tokens'])}, and {given} was asked for")
        return given
    size = rows[0].get("block_tokens", standard)
    if type(size) is not int or not 1 <= size <= MAX_COUNT:
        refuse(path, 1, f"block_tokens = {shown(size)} is not a whole number of tokens, at least 1; correct it")
    for number, row in enumerate(rows, 1):
        if row.get("block_tokens", standard) != size:
            refuse(path, number, f"block_tokens differs from {size} on line 1; use one size in the whole file")
    return size


def hash_ids(path: Path, rows: Rows, prompt: IntArray, block_tokens: int) -> list[list[int]]:
    """The ids of every request, of `block_tokens` tokens each, for no more than its `prompt` tokens."""
    lists = [row.get("hash_ids", []) for row in rows]
    if not set(map(type, lists)) <= {list}:
        number = next(i for i, ids in enumerate(lists, 1) if type(ids) is not list)
        refuse(path, number, "hash_ids is not a list; give a list of whole numbers, or leave it out")
    if not set(map(type, chain.from_iterable(lists))) <= {int}:
        number = next(i for i, ids in enumerate(lists, 1) if any(type(id_) is not int for id_ in ids))
        refuse(path, number, "hash_ids holds something that is not a whole number; correct or remove the line")
    for number, (ids, tokens) in enumerate(zip(lists, prompt.tolist(), strict=True), 1):
        if len(ids) > -(-tokens // block_tokens):
            what = f"{len(ids)} hash_ids of {block_tokens} tokens for a prompt of {tokens}"
            refuse(path, number, f"{what}; correct the line, or give block_tokens (--block-tokens)")
        if ids and (max(ids) > _INT64_MAX or min(ids) < -_INT64_MAX):
            refuse(path, number, "hash_ids holds a number beyond 64 bits; renumber the blocks")
    return lists


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
