"""What every reader does with its rows: leave out what failed, and put the rest in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.errors import InputError


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an option value that is not among `choices`."""
    if value not in choices:
        raise InputError(f"{option} = {value!r} is not known; use one of {', '.join(map(repr, choices))}")


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
