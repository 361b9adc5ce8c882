"""The last step of every reader: order, start of time, the failed-request rule, and the note."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.workload.core import Workload


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an option value that is not among `choices`."""
    if value not in choices:
        raise InputError(f"{option} = {value!r} is not known; use one of {', '.join(map(repr, choices))}")


def finish(
    path: Path,
    arrival_s: FloatArray | None,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    *,
    rows: int,
    classes: tuple[IntArray, tuple[str, ...]] | None = None,
    hash_ids: Sequence[Sequence[int]] | None = None,
    block_tokens: int = 0,
    remarks: Sequence[str] = (),
) -> tuple[Workload, str]:
    """The workload in order of arrival, first arrival at 0, and the note that says what was kept and changed.

    Args:
        arrival_s: shape (n,), seconds on any clock; None when the file has no arrivals (all arrive at 0).
        rows: requests in the file, kept or not.
        classes: (class_id of shape (n,), class_names).
        hash_ids: prefix-block ids per request, of `block_tokens` tokens each.
        remarks: what else the reader has to say.
    """
    said = [f"{len(prompt_tokens):,} requests kept of {rows:,} rows", *remarks]
    if arrival_s is None:
        arrival_s = np.zeros(len(prompt_tokens))
        said.append("no arrival times in the file: all arrive at 0")
    order, late = arrival_order(arrival_s)
    if late:
        said.append(f"sorted by arrival ({late:,} came before the row ahead)")
    fields: dict[str, Any] = {}
    if classes is not None:
        # A class whose every request was dropped is no class of this workload.
        used, class_id = np.unique(classes[0][order], return_inverse=True)
        fields |= {"class_id": class_id, "class_names": tuple(classes[1][k] for k in used)}
    if hash_ids is not None and any(map(len, hash_ids)):
        fields |= _prefix_fields([hash_ids[i] for i in order], block_tokens)
    workload = Workload(
        arrival_s=arrival_s[order] - arrival_s[order[0]],
        prompt_tokens=prompt_tokens[order],
        output_tokens=output_tokens[order],
        name=path.name.split(".")[0],
        **fields,
    )
    return workload, f"{path.name}: {'; '.join(said)}"


def drop_failed(path: Path, failed: str, bad: BoolArray, where: str, why: str) -> tuple[BoolArray, list[str]]:
    """The requests to keep and what to say about it, or an error at the first bad one.

    Args:
        failed: "stop" or "drop", the reader's option.
        bad: shape (rows,), the requests that the traced system did not serve.
        where: place of the first bad one, such as `:17` or `: request 3`.
        why: what is wrong with it.
    """
    check_choice("failed", failed, ("stop", "drop"))
    if bad.any() and failed == "stop":
        raise InputError(
            f"{path}{where}: {why}, one of {int(bad.sum()):,} such; "
            "it cannot be served again: pass failed='drop' to leave such requests out"
        )
    if bad.all():
        raise InputError(f"{path}: every request failed; give a trace with served requests")
    return ~bad, [f"{int(bad.sum()):,} failed requests dropped"] if bad.any() else []


def arrival_order(arrival_s: FloatArray) -> tuple[IntArray, int]:
    """The rows in order of arrival, and how many came before the row ahead of them."""
    late = int((np.diff(arrival_s) < 0).sum())
    order = np.argsort(arrival_s, kind="stable") if late else np.arange(len(arrival_s))
    return order, late


def _prefix_fields(hash_ids: list[Sequence[int]], block_tokens: int) -> dict[str, Any]:
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in hash_ids])))
    ids = np.fromiter(chain.from_iterable(hash_ids), np.int64, count=int(offsets[-1]))
    return {"prefix_ids": ids, "prefix_offsets": offsets, "prefix_block_tokens": block_tokens}
