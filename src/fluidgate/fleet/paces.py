"""What streams tell of replicas: how long an iteration takes, and so what was held there a while ago."""

from __future__ import annotations

import numpy as np

from fluidgate.fleet.layout import Fleet
from fluidgate.kernel import entry_kernel, kernel

PACE_TOKENS = 4096.0
"""Tokens over which the pace of a replica is taken, exponentially weighted."""


@entry_kernel
def note_paces(fleet: Fleet) -> None:
    """Learn the pace of every replica from the tokens that its streams got since the last call."""
    for k in range(len(fleet.table)):
        _note_pace(fleet, k)


@entry_kernel
def held_then(fleet: Fleet, k: int, time_s: float, now_s: float) -> tuple[float, float, float]:
    """What those in flight at a replica held at a time: all of them, those that streamed by then, and their number.

    KV tokens; between then and now they ran at the replica's pace.
    """
    rows, replica = fleet.rows, fleet.table[k]
    held, streaming, count = 0.0, 0.0, 0.0
    since = (now_s - time_s) / replica.pace_s if replica.pace_s > 0.0 else 0.0
    for i in range(replica.count):
        row = fleet.residents[k, i]
        if rows.sent_s[row] <= time_s:
            count += 1.0
            generated = rows.generated_tokens[row] - since
            tokens = replica.unshared * rows.prompt_tokens[row] + max(0.0, generated)
            held += tokens + 0.5 * (replica.block_size - 1)
            if rows.seen_s[row] == rows.seen_s[row] and generated > 0.0:
                streaming += tokens
    return held, streaming, count


@kernel
def _note_pace(fleet, k):
    rows, replica = fleet.rows, fleet.table[k]
    seconds, tokens = 0.0, 0.0
    for i in range(replica.count):
        row = fleet.residents[k, i]
        if rows.seen_s[row] > rows.mark_s[row]:
            seconds += rows.seen_s[row] - rows.mark_s[row]
            tokens += rows.generated_tokens[row] - rows.mark_tokens[row]
        rows.mark_s[row], rows.mark_tokens[row] = rows.seen_s[row], rows.generated_tokens[row]
    if tokens > 0.0:
        _learn_pace(replica, seconds / tokens, tokens)


@kernel
def _learn_pace(replica, seconds, tokens):
    if replica.pace_s == 0.0:
        replica.pace_s = seconds
    replica.pace_s += (1.0 - np.exp(-tokens / PACE_TOKENS)) * (seconds - replica.pace_s)


@entry_kernel
def note_pace(fleet: Fleet, k: int, seconds: float, tokens: float) -> None:
    """Learn how long an iteration of a replica takes, from so many tokens of a stream."""
    _learn_pace(fleet.table[k], seconds, tokens)
