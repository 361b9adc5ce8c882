"""Recorded batches, request by request: which iterations a request was in, and how many tokens it had then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine import RunRecords
from fluidgate.errors import InputError


@dataclass(frozen=True, eq=False)
class BatchEntries:
    """One entry per request of every batch, in order of request, then iteration; shape (Σ scheduled,) each.

    Attributes:
        row: the request.
        iteration: of which batch.
        tokens: computed for it in that iteration.
        stage: output tokens that it had before.
    """

    row: IntArray
    iteration: IntArray
    tokens: IntArray
    stage: IntArray


def batch_entries(records: RunRecords) -> BatchEntries:
    """The entries of a run that was recorded with `record="decisions"`.

    The records do not say which chunk of a prompt is its last. It is taken to be the one before the first entry of one
    token, so that a prompt whose last chunk is one token is ahead by one stage.

    Raises:
        InputError: the run was not recorded with its decisions.
    """
    steps = records.steps
    if steps is None or len(steps.batch) != int(steps.scheduled.sum()):
        raise InputError("the batches of this run were not recorded; run it with record='decisions'")
    order = np.argsort(steps.batch[:, 0], kind="stable")
    row, tokens = steps.batch[order, 0], steps.batch[order, 1]
    iteration = np.repeat(np.arange(len(steps)), steps.scheduled)[order]
    first = np.r_[True, row[1:] != row[:-1]][: len(row)]
    gives_token = (tokens == 1) | np.r_[first[1:] | (tokens[1:] == 1), True][: len(row)]
    before = np.cumsum(gives_token) - gives_token
    start = np.maximum.accumulate(np.where(first, np.arange(len(row)), 0))
    return BatchEntries(row, iteration, tokens, before - before[start])


def evictions(records: RunRecords) -> tuple[IntArray, IntArray]:
    """Victims in order: their rows and the iterations that evicted them, shape (Σ preempted,) each."""
    assert records.steps is not None
    return records.steps.victims, np.repeat(np.arange(len(records.steps)), records.steps.preempted)
