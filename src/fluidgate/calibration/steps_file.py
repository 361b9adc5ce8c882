"""Measured steps in a CSV file: one row per engine step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT, MAX_KV_TOKENS, MAX_STEP_S, MIN_STEP_S
from fluidgate.calibration.csv_rows import read_rows
from fluidgate.calibration.points import StepPoints
from fluidgate.errors import InputError
from fluidgate.output import write_text
from fluidgate.words import shown

TOKENS, KV, PAIRS, SEQUENCES = "tokens", "kv_tokens", "attention_pairs", "sequences"
KIND, DURATION = "kind", "ms"
NAMES = {
    TOKENS: ("tokens", "num_tokens", "batch_tokens", "num_scheduled_tokens", "total_num_scheduled_tokens"),
    KV: ("kv_tokens", "num_kv_tokens", "context_tokens", "kv"),
    PAIRS: ("attention_pairs", "prefill_pairs", "prefill_attention_pairs", "pairs"),
    SEQUENCES: ("sequences", "num_sequences", "num_reqs", "num_seqs", "scheduled", "batch_size"),
    KIND: ("kind", "phase"),
    DURATION: ("ms", "step_ms", "duration_ms", "latency_ms", "time_ms"),
}
REQUIRED = (TOKENS, KV, DURATION)
MS_PER_S = 1e3
ROUNDING = 1e-5
"""Of the numbers that `write_steps` writes."""
RANGES = {
    TOKENS: (1e-3, MAX_COUNT),
    KV: (0.0, MAX_KV_TOKENS),
    PAIRS: (0.0, float(MAX_COUNT) ** 2),
    SEQUENCES: (1e-3, MAX_COUNT),
    DURATION: (MIN_STEP_S * MS_PER_S, MAX_STEP_S * MS_PER_S),
}
"""Least and most; files of means hold fractional numbers of tokens."""


@dataclass(frozen=True, eq=False)
class StepFile:
    """The steps of a file.

    Attributes:
        points: the steps; without a column of attention pairs or of sequences these are 0.
        has_pairs: whether the file says how many (query, key) pairs each step's prefill had.
        has_sequences: whether the file says how many requests were scheduled in each step.
        unused: columns that are not read.
    """

    points: StepPoints
    has_pairs: bool
    has_sequences: bool
    unused: tuple[str, ...]


def read_steps(path: Path | str) -> StepFile:
    """The steps in a CSV file with a header.

    Columns, in any order, case and with spaces, hyphens or underscores: `tokens` computed in the step, `kv_tokens`
    (context lengths at its end, summed over its requests), `ms`; if there, `attention_pairs` ((query, key) pairs of its
    prefill chunks), `sequences` (its decodes and prefill chunks) and `kind`. `NAMES` lists the other names that each
    may have.

    Raises:
        InputError: no such file, a column missing or doubled, or a value that is no number or out of range; names
            the line. Also more sequences than tokens: each has a token at least.
    """
    path = Path(path)
    rows = read_rows(path, "a CSV of measured steps")
    if not rows:
        raise InputError(f"{path}:1: the file is empty; give a header and one row per step")
    columns, unused = _columns(path, rows[0][1])
    steps = rows[1:]
    if not steps:
        raise InputError(f"{path}:1: a header and no rows; give one row per step")
    for line, cells in steps:
        if len(cells) != len(rows[0][1]):
            raise InputError(
                f"{path}:{line}: {len(cells)} fields where the header has {len(rows[0][1])}; correct or remove the line"
            )
    none = np.zeros(len(steps))
    points = StepPoints(
        kind=np.array([cells[columns[KIND]] if KIND in columns else "step" for _, cells in steps]),
        tokens=_numbers(path, steps, columns[TOKENS], TOKENS),
        kv_tokens=_numbers(path, steps, columns[KV], KV),
        attention_pairs=_numbers(path, steps, columns[PAIRS], PAIRS) if PAIRS in columns else none,
        sequences=_numbers(path, steps, columns[SEQUENCES], SEQUENCES) if SEQUENCES in columns else none,
        duration_s=_numbers(path, steps, columns[DURATION], DURATION) / MS_PER_S,
    )
    more = points.sequences > points.tokens * (1 + ROUNDING)
    if more.any():
        i = int(np.argmax(more))
        raise InputError(
            f"{path}:{steps[i][0]}: {points.sequences[i]:g} sequences and {points.tokens[i]:g} tokens, and each has at "
            "least one; correct the line"
        )
    return StepFile(points, PAIRS in columns, SEQUENCES in columns, unused)


def write_steps(points: StepPoints, path: Path | str) -> None:
    """The steps as a CSV file that `read_steps` reads.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [",".join((KIND, TOKENS, KV, PAIRS, SEQUENCES, DURATION))]
    for kind, *values, duration_s in zip(*points, strict=True):
        lines.append(",".join((kind, *(f"{value:.6g}" for value in (*values, duration_s * MS_PER_S)))))
    write_text(path, "\n".join(lines) + "\n")


def _columns(path: Path, header: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where each known column is, and the names of the others."""
    plain = [name.lower().replace(" ", "_").replace("-", "_") for name in header]
    columns: dict[str, int] = {}
    for what, names in NAMES.items():
        matches = [i for i, name in enumerate(plain) if name in names]
        if len(matches) > 1:
            both = " and ".join(repr(header[i]) for i in matches)
            raise InputError(f"{path}:1: {both} both mean {what}; keep one")
        if matches:
            columns[what] = matches[0]
        elif what in REQUIRED:
            raise InputError(
                f"{path}:1: no column for {what} in the header ({', '.join(header)[:200]}); call it one of "
                f"{', '.join(names)}"
            )
    return columns, tuple(name for i, name in enumerate(header) if i not in columns.values())


def _numbers(path: Path, rows: Sequence[tuple[int, list[str]]], column: int, name: str) -> FloatArray:
    least, most = RANGES[name]
    positive = least > 0
    requirement = "a finite number above 0" if positive else "a finite number, at least 0"
    values = np.empty(len(rows))
    for i, (line, cells) in enumerate(rows):
        try:
            value = float(cells[column])
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and (value > 0 if positive else value >= 0)):
            raise InputError(
                f"{path}:{line}: {name} = {shown(cells[column])} must be {requirement}; correct or remove the line"
            )
        if not least <= value <= most:
            raise InputError(
                f"{path}:{line}: {name} = {value:g} must be between {least:g} and {most:g}; correct the line"
            )
        values[i] = value
    return values
