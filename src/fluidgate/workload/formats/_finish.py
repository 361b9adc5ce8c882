"""The last step of every reader: order, start of time, and the note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.workload.core import Workload
from fluidgate.workload.logs import arrival_order


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
    timeouts: Mapping[str, FloatArray] | None = None,
    turns: tuple[IntArray, FloatArray] | None = None,
    remarks: Sequence[str] = (),
) -> tuple[Workload, str]:
    """The workload in order of arrival, first arrival at 0, and the note that says what was kept and changed.

    Args:
        arrival_s: shape (n,), seconds on any clock; None when the file has no arrivals (all arrive at 0).
        rows: requests in the file, kept or not.
        classes: (class_id of shape (n,), class_names).
        hash_ids: prefix-block ids per request, of `block_tokens` tokens each.
        timeouts: columns of `Workload` that say how long clients wait.
        turns: (`after` and `delay_s` of a `Workload`, by row of the file), where a turn arrives no earlier than the one
            before it.
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
    fields |= {name: column[order] for name, column in (timeouts or {}).items()}
    if turns is not None:
        place = np.argsort(order)
        after, delay_s = (column[order] for column in turns)
        fields |= {"after": np.where(after < 0, -1, place[after]), "delay_s": delay_s}
        said.append(f"later turns, sent when the reply before has come: {int((after >= 0).sum()):,}")
    workload = Workload(
        arrival_s=arrival_s[order] - arrival_s[order[0]],
        prompt_tokens=prompt_tokens[order],
        output_tokens=output_tokens[order],
        name=path.name.split(".")[0],
        **fields,
    )
    return workload, f"{path.name}: {'; '.join(said)}"


def _prefix_fields(hash_ids: list[Sequence[int]], block_tokens: int) -> dict[str, Any]:
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in hash_ids])))
    ids = np.fromiter(chain.from_iterable(hash_ids), np.int64, count=int(offsets[-1]))
    return {"prefix_ids": ids, "prefix_offsets": offsets, "prefix_block_tokens": block_tokens}
