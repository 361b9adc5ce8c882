"""Where two runs of one case diverge: the first step or record that differs, in words.

    simulated = simulate(workload, hardware, policy, record="decisions")
    emulated = emulate(workload, hardware, policy, record="decisions")
    print(first_difference(simulated, emulated) or "equal")

Needs no vLLM itself: any two runs of one workload will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

import numpy as np

from fluidgate.engine import RunRecords, StepRecords
from fluidgate.errors import InputError

COLUMN = 24
EQUAL_ENTRIES_SHOWN = 3
"""Of a stretch of equal batch entries this many are shown; the others are counted."""

Names = tuple[str, str]
Row = tuple[str, str, str]


def first_difference(a: RunRecords, b: RunRecords, names: Names = ("simulate", "emulate")) -> str | None:
    """The first difference between two runs of one workload, None if there is none.

    Steps come first: batch, tokens, preempted requests, free blocks, counts and times, all to the last bit; a step
    that differs is shown as in `explain`. Then every record per request and every total.

    Args:
        a, b: runs with `record="decisions"`.
        names: what to call them.

    Raises:
        InputError: the runs are of different workloads, or without decisions.
    """
    if a.workload.digest != b.workload.digest:
        raise InputError(f"{a.workload.name} and {b.workload.name} are different workloads; compare two runs of one")
    step = _first_step(_steps(a), _steps(b))
    if step is not None:
        return explain(a, b, step, names)
    for field in fields(RunRecords):
        if field.name not in ("workload", "hardware", "config", "policy", "steps"):
            problem = _difference(field.name, getattr(a, field.name), getattr(b, field.name), names)
            if problem:
                return problem
    return None


def explain(a: RunRecords, b: RunRecords, step: int, names: Names = ("simulate", "emulate")) -> str:
    """Step `step` (from 0) of two runs, side by side; lines that differ end in `<`.

    Raises:
        InputError: neither run has such a step, or no decisions were recorded.
    """
    if not 0 <= step < max(len(_steps(a)), len(_steps(b))):
        raise InputError(f"the runs have no step {step}; they have {len(_steps(a))} and {len(_steps(b))}")
    left, right = _step(_steps(a), step), _step(_steps(b), step)
    if left is None or right is None:
        longer, shorter = names if right is None else names[::-1]
        title = f"step {step}: {longer} has it, {shorter} ended before"
    else:
        differing = {
            "time": (left.start_s, left.end_s) != (right.start_s, right.end_s),
            "batch": (left.tokens, left.batch) != (right.tokens, right.batch),
            "preempted requests": left.victims != right.victims,
            "free blocks": left.free_blocks != right.free_blocks,
            "running and waiting": (left.running, left.waiting) != (right.running, right.waiting),
        }
        parts = [part for part, differs in differing.items() if differs]
        title = f"step {step} differs in {', '.join(parts)}" if parts else f"step {step} is equal"
    lines = [_line(("", *names), mark=False)]
    lines += [_line(row) for row in _rows(left, right)]
    return "\n".join([title, *lines])


@dataclass(frozen=True)
class _Step:
    start_s: float
    end_s: float
    tokens: int
    running: int
    waiting: int
    free_blocks: int
    batch: list[tuple[int, int]]  # (row, tokens)
    victims: list[int]


def _steps(records: RunRecords) -> StepRecords:
    steps = records.steps
    if steps is None or len(steps.batch) != steps.scheduled.sum() or len(steps.victims) != steps.preempted.sum():
        raise InputError(f'the run of {records.policy} has no decisions; run it with record="decisions"')
    return steps


def _step(steps: StepRecords, k: int) -> _Step | None:
    if k >= len(steps):
        return None
    at, victim = int(steps.scheduled[:k].sum()), int(steps.preempted[:k].sum())
    return _Step(
        float(steps.start_s[k]),
        float(steps.end_s[k]),
        int(steps.tokens[k]),
        int(steps.running[k]),
        int(steps.waiting[k]),
        int(steps.free_blocks[k]),
        [(int(row), int(tokens)) for row, tokens in steps.batch[at : at + int(steps.scheduled[k])]],
        steps.victims[victim : victim + int(steps.preempted[k])].tolist(),
    )


def _first_step(a: StepRecords, b: StepRecords) -> int | None:
    """The first step that differs in anything; the end of the shorter run if one is the other's beginning."""
    both = min(len(a), len(b))
    columns = [field.name for field in fields(StepRecords) if field.name not in ("batch", "victims")]
    firsts = [_first_unequal(getattr(a, name)[:both], getattr(b, name)[:both]) for name in columns]
    for entries, counts in (("batch", "scheduled"), ("victims", "preempted")):
        left, right = getattr(a, entries), getattr(b, entries)
        shared = min(len(left), len(right))
        entry = _first_unequal(left[:shared], right[:shared])
        if entry is not None:
            firsts.append(int(np.searchsorted(np.cumsum(getattr(a, counts)), entry, side="right")))
    steps = [first for first in firsts if first is not None]
    return min(steps) if steps else both if len(a) != len(b) else None


def _first_unequal(a: Any, b: Any) -> int | None:
    """First index at which two arrays of one shape differ; NaN equals NaN."""
    differs = np.argwhere(~((a == b) | ((a != a) & (b != b))))
    return int(differs[0, 0]) if len(differs) else None


def _difference(name: str, a: Any, b: Any, names: Names) -> str:
    if np.shape(a) != np.shape(b):
        return f"{name} has {len(a)} values in {names[0]} and {len(b)} in {names[1]}"
    i = _first_unequal(np.atleast_1d(a), np.atleast_1d(b))
    if i is None:
        return ""
    where = f"{name}[{i}]" if np.ndim(a) else name
    return f"{where} is {np.atleast_1d(a)[i]} in {names[0]} and {np.atleast_1d(b)[i]} in {names[1]}"


def _rows(left: _Step | None, right: _Step | None) -> Iterator[Row]:
    """The lines of the comparison: (label, value in one, value in the other)."""
    for label, name in (
        ("start (s)", "start_s"),
        ("end (s)", "end_s"),
        ("tokens", "tokens"),
        ("running", "running"),
        ("waiting", "waiting"),
        ("free blocks", "free_blocks"),
    ):
        yield label, str(getattr(left, name, "–")), str(getattr(right, name, "–"))
    yield from _batch_rows(left.batch if left else [], right.batch if right else [])
    for mine, theirs in zip_longest(left.victims if left else [], right.victims if right else []):
        yield "preempted", _named(mine), _named(theirs)


def _batch_rows(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> Iterator[Row]:
    """Both batches in their order, aligned; long equal stretches are cut short."""
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        shown = EQUAL_ENTRIES_SHOWN if kind == "equal" else max(a1 - a0, b1 - b0)
        for mine, theirs in zip_longest(a[a0 : min(a1, a0 + shown)], b[b0 : min(b1, b0 + shown)]):
            yield "scheduled", _entry(mine), _entry(theirs)
        if kind == "equal" and a1 - a0 > shown:
            yield f"… {a1 - a0 - shown} more the same", "", ""


def _named(row: int | None) -> str:
    return "–" if row is None else f"request {row}"


def _entry(entry: tuple[int, int] | None) -> str:
    return "–" if entry is None else f"request {entry[0]}: {entry[1]} token{'s' * (entry[1] != 1)}"


def _line(row: Row, *, mark: bool = True) -> str:
    label, left, right = row
    text = f"  {label:<{COLUMN}}{left:<{COLUMN}}{right}"
    return (f"{text:<{3 * COLUMN}} <" if mark and left != right else text).rstrip()
