"""The laws that every run obeys: each is a sentence, and a function that says what is wrong with a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.engine import RunRecords, StepRecords
from fluidgate.testing.cases import case_in_words

ROUNDING = 1e-9
"""Relative error allowed where sums of times are compared that were added in another order."""

Law = Callable[[RunRecords, float], str]
"""What is wrong with a run, or nothing; the number is how long the engine may idle while requests wait, in seconds."""


def check_records(records: RunRecords, *, max_idle_s: float = 0.0) -> None:
    """Assert the laws on one run; those per iteration need `record="decisions"`.

    Args:
        max_idle_s: longest time the engine may idle while requests wait; infinite allows a run that stalled.
    """
    for law in LAWS:
        check_law(law, records, max_idle_s)


def check_law(law: str, records: RunRecords, max_idle_s: float) -> None:
    """Assert one of `LAWS` on one run."""
    _require(law, records, LAWS[law](records, max_idle_s))


def check_same(a: RunRecords, b: RunRecords, law: str) -> None:
    """Assert that two runs of one case agree in every bit; the sentence names `law` and the record that differs."""
    for field in fields(RunRecords):
        if field.name not in ("workload", "hardware", "config", "steps"):
            _require(law, a, _different(getattr(a, field.name), getattr(b, field.name), field.name))
    if a.steps is not None and b.steps is not None:
        for field in fields(StepRecords):
            _require(law, a, _different(getattr(a.steps, field.name), getattr(b.steps, field.name), field.name))


def _different(a: object, b: object, name: str) -> str:
    same = np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return "" if same else f"{name} differs: {a} and {b}"


def _require(law: str, records: RunRecords, problem: str) -> None:
    if problem:
        raise AssertionError(f"{law}: {case_in_words(records.policy, records.workload, records.config)}: {problem}")


# Laws on totals and on requests. Each function returns what is wrong, or nothing.


def _memory(records: RunRecords) -> str:
    if not 0 <= records.mean_blocks <= records.peak_blocks * (1 + ROUNDING):
        return f"{records.mean_blocks} blocks in use on average, {records.peak_blocks} at most"
    if records.peak_blocks > records.total_blocks:
        return f"{records.peak_blocks} blocks in use of {records.total_blocks}"
    return ""


def _order_of_times(records: RunRecords) -> str:
    events = [records.arrival_s, records.first_scheduled_s, records.first_token_s, records.last_token_s]
    names = ["arrival", "first scheduled", "first token", "last token"]
    for before, after, name in zip(events[:-1], events[1:], names[1:], strict=True):
        wrong = (after < before) | (~np.isnan(after) & np.isnan(before)) | (after > records.end_s)
        if wrong.any():
            return f"request {np.argmax(wrong)} has its {name} at {after[np.argmax(wrong)]} s, out of order"
    waited_s = np.where(np.isnan(records.last_token_s), records.end_s, records.last_token_s) - records.arrival_s
    held = (records.held_s < 0) | (records.held_s > np.maximum(waited_s, records.end_s - records.arrival_s) + ROUNDING)
    late = (records.last_token_s > records.gave_up_s) | (records.left_s < records.gave_up_s)
    if late.any():
        return f"request {np.argmax(late)} has a token after its client has left, or leaves before it"
    return f"request {np.argmax(held)} is held longer than it is there" if held.any() else ""


def _served_once(records: RunRecords) -> str:
    wanted = records.workload.output_tokens
    if (records.generated_tokens > wanted).any() or (records.finished != (records.generated_tokens == wanted)).any():
        return "generated_tokens and finished disagree with the lengths asked for"
    if (records.finished & np.isnan(records.last_token_s)).any():
        return f"request {np.argmax(records.finished & np.isnan(records.last_token_s))} finished without a token"
    span_s = np.nan_to_num(records.last_token_s - records.first_token_s)
    if not np.isclose(records.gap_sum_s, span_s.sum(), rtol=ROUNDING, atol=ROUNDING):
        return f"gaps between tokens add up to {records.gap_sum_s} s, and streams last {span_s.sum()} s"
    gaps = np.maximum(np.where(records.dropped, records.generated_tokens, wanted) - 1, 0)
    restarted = records.config.preemption == "restart" and records.dropped.any()  # it streamed more than it has
    if not records.stalled and not restarted and records.gap_counts.sum() != gaps.sum():
        return f"{records.gap_counts.sum()} gaps between tokens for {gaps.sum()} pairs of tokens"
    mean_gap_s = np.divide(span_s, gaps, out=np.zeros(len(gaps)), where=gaps > 0)
    longest = records.longest_gap_s
    wrong = (longest > span_s + ROUNDING) | (records.finished & (longest < mean_gap_s - ROUNDING))
    return f"request {np.argmax(wrong)} has a longest gap of {longest[np.argmax(wrong)]} s" if wrong.any() else ""


def _tokens_conserved(records: RunRecords) -> str:
    load, caching = records.workload, records.config.enable_prefix_caching
    shared = np.diff(load.prefix_offsets) > 0 if caching else np.zeros(len(load), bool)
    arrived = (load.prompt_tokens - 1) * (records.config.prompts_arrive_computed & ~np.isnan(records.first_scheduled_s))
    if (records.cached_tokens[~shared] != arrived[~shared]).any():
        return "cached_tokens of a prompt that shares nothing is not what arrived computed"
    if (records.cached_tokens < arrived).any() or (records.cached_tokens >= load.prompt_tokens).any():
        return "cached_tokens is not part of a shared prompt"
    if (records.recomputed_tokens[records.preemptions == 0] != 0).any():
        return "a request recomputes without having lost its KV"
    if shared.any() or not records.finished.all():
        return ""  # then only the step-wise law knows what had to be computed
    useful = int((load.prompt_tokens + load.output_tokens - 1 - arrived).sum())
    again = int(records.recomputed_tokens.sum())
    wrong = records.computed_tokens != useful + again
    return f"{records.computed_tokens} tokens computed, {useful} useful and {again} recomputed" if wrong else ""


def _left_over(records: RunRecords, max_idle_s: float) -> str:
    if (records.finished & records.dropped).any():
        return f"request {np.argmax(records.finished & records.dropped)} finishes and is dropped"
    left = int((~records.finished & ~records.dropped).sum())
    return f"{left} of {len(records)} never finish" if left and not (records.stalled and max_idle_s == np.inf) else ""


# Laws on iterations.


def _idle(records: RunRecords, max_idle_s: float) -> str:
    steps = records.steps
    if steps is None:
        return ""
    ends_s = np.concatenate(([0.0], steps.end_s))
    gone_s = _gone_s(records)
    for k, start_s in enumerate(steps.start_s):
        present = (records.arrival_s < start_s) & ~(gone_s <= ends_s[k])
        if present.any():
            until_s = np.fmin(start_s, gone_s[present])
            idle_s = (until_s - np.maximum(ends_s[k], records.arrival_s[present])).max()
            if idle_s > max_idle_s * (1 + ROUNDING):
                return f"the engine idles for {idle_s} s before {start_s} s with {present.sum()} requests present"
    return ""


def _gone_s(records: RunRecords) -> FloatArray:
    """When each request left the engine, seconds; NaN if it never did."""
    return np.where(records.finished, records.last_token_s, records.left_s)


def _step_totals(records: RunRecords, steps: StepRecords) -> str:
    free = steps.free_blocks
    if len(steps) != records.iterations:
        return f"{len(steps)} iterations recorded of {records.iterations}"
    if (free < 0).any() or records.peak_blocks != records.total_blocks - free.min(initial=records.total_blocks):
        return f"free_blocks falls to {free.min()}, and at most {records.peak_blocks} blocks are in use"
    if (steps.end_s < steps.start_s).any() or (steps.start_s[1:] < steps.end_s[:-1]).any():
        return "iterations overlap"
    if not np.isclose(records.busy_s, (steps.end_s - steps.start_s).sum(), rtol=ROUNDING):
        return f"busy for {records.busy_s} s, and iterations last {(steps.end_s - steps.start_s).sum()} s"
    if records.config.is_asynchronous:
        return ""  # who was there when a batch was formed, before it began, is not written down
    arrived = np.searchsorted(np.sort(records.arrival_s), steps.start_s, side="right")
    left = np.searchsorted(np.sort(_gone_s(records)), steps.start_s, side="right")  # NaN is last
    lost = arrived - left != steps.running + steps.waiting
    return f"requests present do not add up in iteration {np.argmax(lost)}" if lost.any() else ""


def _limits(records: RunRecords, steps: StepRecords) -> str:
    config, load = records.config, records.workload
    if steps.running.max(initial=0) > config.seats or (steps.scheduled > steps.running).any():
        return f"{steps.running.max()} residents and {steps.scheduled.max()} scheduled with {config.seats} seats"
    if not _has_decisions(steps):
        return ""
    row, tokens = steps.batch.T
    step = np.repeat(np.arange(len(steps)), steps.scheduled)
    if (tokens < 1).any() or len(np.unique(step * len(load) + row)) != len(row):
        return "a request is scheduled twice in one iteration, or for no tokens"
    # beside a prompt, all tokens count; an iteration of decodes alone is limited by seats only, but in mode vllm
    prefills = np.bincount(step, tokens > 1, minlength=len(steps)) > 0
    budget = config.token_budget(int((load.prompt_tokens + load.output_tokens).max()))
    over = (steps.tokens > budget) & (prefills | (config.mode == "vllm"))
    if over.any():
        return f"iteration {np.argmax(over)} computes {steps.tokens[np.argmax(over)]} tokens with a budget of {budget}"
    limit = config.long_prefill_token_threshold
    alone = (steps.running + steps.waiting <= 1)[step] & (not config.cut_lone_prefill)
    return f"{tokens.max()} prompt tokens with a limit of {limit}" if limit and (tokens[~alone] > limit).any() else ""


def _tokens_logged(records: RunRecords, steps: StepRecords) -> str:
    if not _has_decisions(steps):
        return ""
    n, load = len(records), records.workload
    if (np.bincount(steps.victims, minlength=n) != records.preemptions).any():
        return "preemptions and victims disagree"
    computed = np.bincount(steps.batch[:, 0], steps.batch[:, 1], minlength=n).astype(np.int64)
    if computed.sum() != records.computed_tokens or (steps.tokens.sum() != records.computed_tokens):
        return f"{computed.sum()} tokens scheduled and {records.computed_tokens} computed"
    needed = load.prompt_tokens + load.output_tokens - 1 - records.cached_tokens + records.recomputed_tokens
    shares = records.config.enable_prefix_caching & (np.diff(load.prefix_offsets) > 0)
    found_again = (shares | (records.config.preemption == "offload")) & (records.preemptions > 0)
    wrong = records.finished & (computed != needed) & ~found_again  # others' blocks can spare it some tokens
    i = int(np.argmax(wrong))
    return f"request {i} is scheduled for {computed[i]} tokens and needs {needed[i]}" if wrong.any() else ""


def _has_decisions(steps: StepRecords) -> bool:
    return len(steps.batch) > 0


@dataclass
class _Replay:
    """A run rebuilt from its decisions alone: who ran with how many tokens, and who was evicted."""

    used_blocks: IntArray
    seconds: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    generated: IntArray


def _replay(records: RunRecords, steps: StepRecords) -> _Replay:
    load, hardware, n = records.workload, records.hardware, len(records)
    arrive = records.config.prompts_arrive_computed
    whole_prompt, restart = records.config.mode != "vllm", records.config.preemption == "restart"
    computed, reserved = records.cached_tokens.copy(), np.zeros(n, np.int64)
    resident, generated, streamed = np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, np.int64)
    first_s, last_s = np.full(n, np.nan), np.full(n, np.nan)
    used, seconds = np.zeros(len(steps), np.int64), np.zeros(len(steps))
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    victims = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
    for k, (batch, evicted) in enumerate(zip(batches, victims, strict=True)):
        resident[evicted] = False
        resident[records.left_s <= steps.start_s[k]] = False
        computed[evicted] = (load.prompt_tokens[evicted] - 1) * (arrive and restart)
        generated[evicted] *= not restart
        rows, tokens = batch.T
        target = load.prompt_tokens[rows] + generated[rows]
        reserved[rows] = np.where(resident[rows], reserved[rows], target * whole_prompt)
        resident[rows] = True
        before, computed[rows] = computed[rows], computed[rows] + tokens
        used[k] = -(-np.maximum(computed, reserved)[resident] // hardware.block_size).sum()
        pairs = tokens * before + tokens * (tokens + 1) // 2
        prompt_part = (tokens > 1) | ((generated[rows] == 0) & (not arrive)) | (computed[rows] != target)
        if len(rows):
            kv, decode = computed[rows], ~prompt_part
            seconds[k] = hardware.step_s(
                *(decode.sum(), kv[decode].sum()),
                *(tokens[prompt_part].sum(), kv[prompt_part].sum(), pairs[prompt_part].sum(), prompt_part.sum()),
            ).item()
        given = rows[(computed[rows] == target) & ~(records.gave_up_s[rows] < steps.end_s[k])]
        generated[given] += 1
        new = given[generated[given] > streamed[given]]
        streamed[new] += 1
        last_s[new] = steps.end_s[k]
        first_s[new] = np.where(np.isnan(first_s[new]), last_s[new], first_s[new])
        resident[given[generated[given] == load.output_tokens[given]]] = False
    return _Replay(used, seconds, first_s, last_s, generated)


def _replayed(records: RunRecords, steps: StepRecords) -> str:
    caching = records.config.enable_prefix_caching
    restoring = caching or records.config.preemption == "offload"
    shared = caching and len(records.workload.prefix_ids) > 0
    if not _has_decisions(steps) or (restoring and records.preemptions.any()):
        return ""  # what a victim finds again is not written down
    replayed = _replay(records, steps)
    wrong = replayed.used_blocks != records.total_blocks - steps.free_blocks
    if wrong.any() and not shared and not records.config.is_asynchronous:
        return f"the batch of iteration {np.argmax(wrong)} needs {replayed.used_blocks[np.argmax(wrong)]} blocks"
    wrong = ~np.isclose(replayed.seconds, steps.end_s - steps.start_s, rtol=1e-6)
    if wrong.any():
        return f"the batch of iteration {np.argmax(wrong)} takes {replayed.seconds[np.argmax(wrong)]} s"
    return (
        _different(replayed.first_token_s, records.first_token_s, "first_token_s")
        or _different(replayed.last_token_s, records.last_token_s, "last_token_s")
        or _different(replayed.generated, records.generated_tokens, "generated_tokens")
    )


def _of_run(broken: Callable[[RunRecords], str]) -> Law:
    return lambda records, _: broken(records)


def _of_steps(broken: Callable[[RunRecords, StepRecords], str]) -> Law:
    return lambda records, _: "" if records.steps is None else broken(records, records.steps)


LAWS: dict[str, Law] = {
    "KV blocks never exceed the cache": _of_run(_memory),
    "times are in order": _of_run(_order_of_times),
    "no request is served twice": _of_run(_served_once),
    "tokens are conserved": _of_run(_tokens_conserved),
    "no request is lost": _left_over,
    "no idling while requests wait": _idle,
    "requests and blocks add up in every iteration": _of_steps(_step_totals),
    "token budget and seats are respected": _of_steps(_limits),
    "scheduled tokens are conserved": _of_steps(_tokens_logged),
    "a replay of the decisions gives the same run": _of_steps(_replayed),
}
