"""Looking a step up in a `StepGrid`, for compiled loops: the one definition of what its tables mean.

Every axis has its knots at (1 + j/k)·2**e, k to an octave, so that the cell of a value follows from its binary
exponent, without a search; within a cell the tables are linear. Beyond the last knot, and below the first, they stay at
its value: callers keep within (`StepGrid.refuse_beyond`).
"""

from __future__ import annotations

import math
from typing import Any

from fluidgate.hardware.knots import KNOTS_PER_OCTAVE, TOKEN_KNOTS_PER_OCTAVE
from fluidgate.kernel import entry_kernel, inlined_kernel


@inlined_kernel
def cell_of(value, knots, per_octave):
    """(knot at or below `value`, how far to the next one, 0 to 1)."""
    mantissa, exponent = math.frexp(value)
    place = (2.0 * mantissa - 1.0) * per_octave
    knot = (exponent - 1) * per_octave + int(place)
    if knot > knots - 2:
        return knots - 2, 1.0
    if knot < 0:
        return 0, 0.0
    return knot, place - int(place)


@inlined_kernel
def interpolated(table, row, column):
    """Bilinear interpolation in a table of shape (rows, columns)."""
    i, down = cell_of(row, table.shape[0], KNOTS_PER_OCTAVE)
    j, right = cell_of(column, table.shape[1], KNOTS_PER_OCTAVE)
    upper = table[i, j] + right * (table[i, j + 1] - table[i, j])
    lower = table[i + 1, j] + right * (table[i + 1, j + 1] - table[i + 1, j])
    return upper + down * (lower - upper)


@inlined_kernel
def grid_step_s(tables, decodes, decode_kv, chunk, pairs):
    """Seconds of a step of `decodes` decodes with `decode_kv` tokens of context in all, and `chunk` prefill tokens."""
    decode_s, decode_attention_s, shared_s, prefill_attention_s = tables
    if chunk == 0:
        return interpolated(decode_s, decodes, decode_kv / decodes) if decodes > 0 else 0.0
    k, right = cell_of(decodes + chunk, len(shared_s), TOKEN_KNOTS_PER_OCTAVE)
    seconds = shared_s[k] + right * (shared_s[k + 1] - shared_s[k])
    seconds += interpolated(prefill_attention_s, chunk, pairs / chunk)
    if decodes > 0:
        seconds += interpolated(decode_attention_s, decodes, decode_kv / decodes)
    return seconds


@entry_kernel
def grid_steps_s(tables: Any, decodes: Any, decode_kv: Any, chunk: Any, pairs: Any, out: Any) -> None:
    """`grid_step_s` of every step, into `out`."""
    for k in range(len(out)):
        out[k] = grid_step_s(tables, decodes[k], decode_kv[k], chunk[k], pairs[k])
