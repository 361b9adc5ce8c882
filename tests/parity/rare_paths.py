"""What a run went through: shows that generated cases reach the paths that are easy to get wrong."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fluidgate.engine import RunRecords

from .generators import SHARE


def require_reached(reached: Counter[str], least: dict[str, int]) -> None:
    """Fail if the cases of a test took a path less often than they should.

    Of a part of the cases nothing is asked: the whole set, on the installed version, shows what they reach.
    """
    if SHARE < 1:
        return
    missed = {path: f"{reached[path]} < {count}" for path, count in least.items() if reached[path] < count}
    assert not missed, f"the generated cases do not reach enough: {missed}"


def rare_paths(records: RunRecords) -> Counter[str]:
    """How often each rare path was taken in a run with decisions."""
    steps, load = records.steps, records.workload
    assert steps is not None
    _, tokens = steps.batch.T
    budget = records.config.token_budget(int((load.prompt_tokens + load.output_tokens).max()))
    chunks, self_reuse = _chunks_and_self_reuse(records)
    seats_left = (steps.running < records.config.seats) & (steps.waiting > 0)
    return Counter(
        {
            "preemptions": int(steps.preempted.sum()),
            "steps that preempted several": int((steps.preempted > 1).sum()),
            "steps that only preempted": int((steps.scheduled == 0).sum()),
            "prefix hits": int((records.cached_tokens > 0).sum()),
            "hits on own old blocks": self_reuse,
            "chunks of a prompt": chunks,
            "prompts computed again": int((tokens > 1).sum()) if records.config.prompts_arrive_computed else 0,
            "lone prompt cut": _lone_chunks(records),
            "cache full": int((steps.free_blocks == 0).sum()),
            "token budget used up": int((steps.tokens == budget).sum()),
            "seats taken": int(((steps.running == records.config.seats) & (steps.waiting > 0)).sum()),
            "no room for the next one": int((seats_left & (steps.tokens < budget)).sum()),
            "arrival as a step ends": int(np.isin(load.arrival_s[load.arrival_s > 0], steps.end_s).sum()),
            "idle engine": int((steps.start_s[1:] > steps.end_s[:-1]).sum()),
            "one-token prompt": int((load.prompt_tokens == 1).sum()),
            "one-token output": int((load.output_tokens == 1).sum()),
            "one-token batch entries": int((tokens == 1).sum()),
            "held requests": int((records.held_s > 0).sum()),
            "paused residents": int((steps.running - steps.scheduled)[steps.tokens < budget].sum()),
            "stalled": int(records.stalled),
            "shed": int(records.shed.sum()),
            **_aborts(records),
        }
    )


def _aborts(records: RunRecords) -> dict[str, int]:
    """Clients that gave up, by where their requests were then."""
    load, aborted = records.workload, records.aborted
    scheduled, streamed = ~np.isnan(records.first_scheduled_s), ~np.isnan(records.last_token_s)
    at_once = np.unique(records.left_s[aborted], return_counts=True)[1]
    patience_s = np.minimum(load.timeout_s, load.ttft_timeout_s) if load.gives_up else np.full(len(load), np.inf)
    return {
        "aborted before it was scheduled": int((aborted & ~scheduled).sum()),
        "aborted within its prompt": int((aborted & scheduled & ~streamed).sum()),
        "aborted while it streamed": int((aborted & streamed).sum()),
        "aborted after an eviction": int((aborted & (records.preemptions > 0)).sum()),
        "aborted for its first token": int(records.no_first_token.sum()),
        "aborted with others": int((at_once > 1).sum()),
        "first token in time": int((load.gives_up & (patience_s < np.inf) & streamed).sum()),
        "aborted as an iteration is computed": int((records.left_s > records.gave_up_s).sum()),
        "last token at the deadline": int((records.last_token_s - load.arrival_s == patience_s).sum()),
    }


def _lone_chunks(records: RunRecords) -> int:
    """Batch entries that fill `long_prefill_token_threshold` with nobody else present; entries of 1 may be decodes."""
    steps, threshold = records.steps, records.config.long_prefill_token_threshold
    assert steps is not None
    alone = np.repeat(steps.running + steps.waiting == 1, steps.scheduled)
    return int((steps.batch[alone, 1] == threshold).sum()) if threshold > 1 else 0


def _chunks_and_self_reuse(records: RunRecords) -> tuple[int, int]:
    """Batch entries that leave part of a prompt for later, and evicted requests that did not start from nothing."""
    steps, load = records.steps, records.workload
    assert steps is not None
    computed = records.cached_tokens.copy()
    evicted = np.zeros(len(load), bool)
    chunks = 0
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    victims = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
    for batch, lost in zip(batches, victims, strict=True):
        computed[lost] = 0
        evicted[lost] = True
        for row, tokens in batch.tolist():
            computed[row] += tokens
            chunks += bool(not evicted[row] and computed[row] < load.prompt_tokens[row])
    without_own = np.diff(load.prefix_offsets) == 0
    short = computed < load.prompt_tokens + load.output_tokens - 1
    return chunks, int((evicted & without_own & records.finished & short).sum())
