"""How long a batch takes, and how the gaps between tokens are counted."""

from __future__ import annotations

import numpy as np

from fluidgate.engine.layout import GAP_FIRST_EXPONENT, GAP_SUBBINS_LOG2
from fluidgate.hardware.grid_kernel import grid_step_s
from fluidgate.kernel import inlined_kernel


@inlined_kernel
def batch_seconds(state, decodes, decode_kv, chunk, chunk_kv, pairs, sequences):
    """Seconds of an iteration: `decodes` tokens that end it with `decode_kv` tokens in KV, and `chunk` prompt tokens.

    `chunk_kv` sums what their requests end it with, `pairs` the (query, key) pairs of their attention.
    """
    c = state.setting[0]
    if len(state.shared_s) > 0:
        tables = (state.decode_s, state.decode_attention_s, state.shared_s, state.prefill_attention_s)
        seconds = grid_step_s(tables, decodes, decode_kv, chunk, pairs)
    else:
        seconds = c.c0 + c.c_tok * (decodes + chunk) + c.c_kv * (decode_kv + chunk_kv) + c.c_attn * pairs
    return seconds + c.c_seq * sequences


@inlined_kernel
def book_gap(state, gap_s, times):
    """Count `times` gaps between tokens in a histogram of constant relative width (2**-10)."""
    state.gap_scratch[0] = gap_s
    # the bits of a positive float, read as an integer, are its logarithm in steps of 2**-52 of an octave
    bits = state.gap_scratch.view(np.int64)[0] >> (52 - GAP_SUBBINS_LOG2)
    index = bits - ((GAP_FIRST_EXPONENT + 1023) << GAP_SUBBINS_LOG2)
    state.gap_histogram[min(max(index, 0), len(state.gap_histogram) - 1)] += times
