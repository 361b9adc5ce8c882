"""Fitting `StepTime` to measured steps: non-negative least squares on the relative error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.step_grid import StepGrid

MIN_POINTS = len(COEFFICIENTS) + 1
SHORTEST = [0, 1, 4]
"""Of them, those that the shortest step has: c0, c_tok and c_seq."""


@dataclass(frozen=True)
class FitReport:
    """How well a step time describes the points it was fitted to; errors are `|fitted/measured − 1|`.

    Attributes:
        points: number of steps.
        mean_error: mean over all points.
        max_error: largest of all points.
        error_by_kind: mean per kind of step.
        unidentifiable: coefficients that these points do not determine (never varied, or only together with
            others); the fitted value of such a coefficient means nothing by itself.
    """

    points: int
    mean_error: float
    max_error: float
    error_by_kind: Mapping[str, float]
    unidentifiable: tuple[str, ...]


def fit_step_time(
    tokens: ArrayLike,
    kv_tokens: ArrayLike,
    attention_pairs: ArrayLike,
    sequences: ArrayLike | None,
    duration_s: ArrayLike,
    kind: Sequence[str] | None = None,
) -> tuple[StepTime, FitReport]:
    """The non-negative `StepTime` with the least sum of squared relative errors over n measured steps.

    Args:
        tokens: tokens computed in each step, shape (n,).
        kv_tokens: context lengths at the end of the step summed over its requests, shape (n,).
        attention_pairs: (query, key) pairs of the prefill chunks, shape (n,).
        sequences: requests scheduled in each step, shape (n,); None if they are not known, or cost nothing in these
            steps: c_seq is then 0.
        duration_s: measured seconds, shape (n,), above 0.
        kind: what each step is (`decode`, `mixed` …), shape (n,); errors are reported per kind.

    Raises:
        InputError: fewer than 5 steps, columns of unequal length, or a value that is not finite or out of
            range.
    """
    from scipy.optimize import nnls

    columns = {"tokens": tokens, "kv_tokens": kv_tokens, "attention_pairs": attention_pairs}
    columns |= {} if sequences is None else {"sequences": sequences}
    measured = _column("duration_s", duration_s, None)
    n = len(measured)
    if np.any(measured <= 0):
        i = int(np.argmax(measured <= 0))
        raise InputError(f"fit: step {i}: duration_s = {measured[i]} must be above 0")
    if n < MIN_POINTS:
        raise InputError(
            f"fit: {n} steps are too few for {len(COEFFICIENTS)} coefficients; measure at least {MIN_POINTS}"
        )
    kinds = np.asarray(["step"] * n if kind is None else list(kind), dtype=str)
    if len(kinds) != n:
        raise InputError(f"fit: kind has {len(kinds)} values for {n} steps; give one per step")

    regressors = np.column_stack([np.ones(n), *(_column(name, values, n) for name, values in columns.items())])
    relative = regressors / measured[:, None]
    # The columns differ by nine orders of magnitude; unit columns keep NNLS and the rank test well
    # conditioned.
    size = np.linalg.norm(relative, axis=0)
    scale = np.where(size > 0, size, 1.0)
    fitted = nnls(relative / scale, np.ones(n))[0] / scale
    shortest = [k for k in SHORTEST if k < len(fitted)]
    if np.all(relative[:, shortest] @ fitted[shortest] < 1e-9):
        raise InputError("fit: the steps show no time per step, token or sequence; add steps with few KV tokens")
    error = np.abs(relative @ fitted - 1)
    report = FitReport(
        points=n,
        mean_error=float(error.mean()),
        max_error=float(error.max()),
        error_by_kind={str(k): float(error[kinds == k].mean()) for k in dict.fromkeys(kinds)},
        unidentifiable=undetermined(relative / scale, COEFFICIENTS[: len(fitted)]),
    )
    return StepTime(*(float(value) for value in fitted)), report


def fit_step_grid(grid: StepGrid, kv_capacity_tokens: int) -> tuple[StepTime, FitReport]:
    """The affine form nearest to a grid over the steps that fit the KV memory: decodes, whole prompts, and both.

    Four terms are fitted to the tables; the cost per sequence is the grid's.

    Raises:
        InputError: hardly any step fits.
    """
    sizes = 4.0 ** np.arange(0, 9)
    decodes = np.concatenate(([0.0], sizes[sizes <= grid.max_decodes]))
    contexts, prompts = 32.0 * sizes, np.concatenate(([0.0], 8.0 * sizes))
    steps = np.meshgrid(
        decodes, contexts[contexts <= grid.max_context], prompts[prompts <= min(grid.max_tokens, grid.max_context)]
    )
    n, context, prompt = (axis.ravel() for axis in steps)
    kv, pairs = n * context + prompt, prompt * (prompt + 1.0) / 2.0
    met = (kv > 0) & (kv <= kv_capacity_tokens) & (n + prompt <= grid.max_tokens)
    met &= (n > 0) | (context == contexts[0])
    if met.sum() < MIN_POINTS:
        raise InputError(
            f"a KV memory of {kv_capacity_tokens:,} tokens and requests of up to {grid.max_context:,} leave hardly any "
            "step to describe; give more KV blocks, or a longer max_model_len"
        )
    n, context, prompt, kv, pairs = (column[met] for column in (n, context, prompt, kv, pairs))
    kind = np.select([prompt == 0, n == 0], ["decode", "prefill"], "mixed")
    tables_s = grid.tables_s(n, n * context, prompt, pairs)
    step_time, report = fit_step_time(n + prompt, kv, pairs, None, tables_s, kind=list(kind))
    return replace(step_time, c_seq=grid.sequence_s), report


def undetermined(matrix: FloatArray, names: Sequence[str]) -> tuple[str, ...]:
    """Coefficients that can change without changing any fitted value: those with a part in the null space.

    Args:
        matrix: a column per coefficient, shape (n, k).
        names: of the coefficients, k.
    """
    _, singular, directions = np.linalg.svd(matrix, full_matrices=False)
    null_space = directions[singular < 1e-9 * singular[0]]
    return tuple(name for name, part in zip(names, null_space.T, strict=True) if np.any(np.abs(part) > 1e-6))


def _column(name: str, values: ArrayLike, n: int | None) -> FloatArray:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"fit: {name} must hold numbers") from None
    if column.ndim != 1:
        raise InputError(f"fit: {name} must be one-dimensional, not of shape {column.shape}")
    if n is not None and len(column) != n:
        raise InputError(f"fit: {name} has {len(column)} values for {n} durations; give one per step")
    bad = ~np.isfinite(column) | (column < 0)
    if bad.any():
        i = int(np.argmax(bad))
        raise InputError(f"fit: step {i}: {name} = {column[i]} must be finite and at least 0")
    return column
