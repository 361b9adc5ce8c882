"""`serve_flags`: a plan as arguments of `vllm serve`, each with its reason, for the releases of `serving.versions`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal

from fluidgate.bounds import MAX_COUNT, MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.hardware.gpus import DEFAULT_MEMORY_UTILIZATION
from fluidgate.hardware.server_defaults import KNOWN_SINCE, ServerDefaults
from fluidgate.policies import ConcurrencyCap, Greedy, Interval, Watermark
from fluidgate.serving.planfile import PlanFile
from fluidgate.serving.versions import FLAG_SINCE, NEWEST, PREFILLS_SPACED_SINCE, Release
from fluidgate.words import number, percent

Form = Literal["plugin", "stock"]

SCHEDULER_CLASS = "fluidgate.serving.scheduler.GateScheduler"
PLAN_VARIABLE = "FLUIDGATE_PLAN"
LONG_VARIABLE = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
VLLM_BLOCK_SIZE = 16
SEATS, ACTIVE, QUEUED = "--max-num-seqs", "--max-num-active-seqs", "--max-num-queued-reqs"
TOKENS, LONGEST = "--max-num-batched-tokens", "--max-model-len"
INTERVAL = "--prefill-schedule-interval"

SINCE = FLAG_SINCE | {INTERVAL: PREFILLS_SPACED_SINCE}
"""Where a flag does what it is printed for: `--prefill-schedule-interval` is older, and was for data-parallel ranks."""

INSTEAD = {
    ACTIVE: f"{SEATS} is lowered to that cap",
    INTERVAL: "prompts are computed as they come",
    QUEUED: "nothing bounds the queue: refuse requests in front of the server",
}
"""What is done where a release lacks a flag."""


@dataclass(frozen=True)
class Flag:
    """One argument of `vllm serve`; `value` is empty for a switch, `why` one line for people."""

    name: str
    value: str
    why: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words on the command line."""
        return (self.name, self.value) if self.value else (self.name,)


def serve_flags(
    plan: PlanFile, form: Form = "plugin", *, max_wait_s: float | None = None, release: Release = NEWEST
) -> tuple[Flag, ...]:
    """The arguments that make a vLLM server the one that was planned.

    What a stock server on the planned machine does by itself stays off the line. Seats and token budget are on it also
    where their default there is not known. An older release gets only flags that it has; `lost` says what it does
    without.

    Args:
        form: "plugin": fluidgate's scheduler runs the policy. "stock": vLLM's own flags alone, which are the policy
            itself for `greedy`, `watermark`, `interval` and `concurrency-cap`, and the nearest to it for the others.
        max_wait_s: refuse requests that would wait longer than this in the queue; None: an unbounded queue.
        release: the vLLM release that takes them.

    Raises:
        InputError: `max_wait_s` is no time above 0 that a clock can have, or the plan's policy is unknown.
    """
    flags = _all_flags(plan, form, max_wait_s, release)
    lacking = _lacking(flags, release)
    cap = next((replace(flag, name=SEATS) for flag in lacking if flag.name == ACTIVE), None)
    kept = [cap if cap is not None and flag.name == SEATS else flag for flag in flags if flag not in lacking]
    return tuple(flag for flag in kept if flag.name not in _stock_limits(plan, kept, release))


def lost(
    plan: PlanFile, form: Form = "plugin", *, max_wait_s: float | None = None, release: Release = NEWEST
) -> tuple[str, ...]:
    """A sentence for each flag that `serve_flags` leaves out because `release` lacks it; arguments as there."""
    lacking = _lacking(_all_flags(plan, form, max_wait_s, release), release)
    where = {INTERVAL: " for an engine by itself"}
    return tuple(
        f"vLLM {release} has no {flag.name}{where.get(flag.name, '')}; {INSTEAD[flag.name]}" for flag in lacking
    )


def _lacking(flags: Sequence[Flag], release: Release) -> list[Flag]:
    return [flag for flag in flags if SINCE.get(flag.name, release.number) > release.number]


def _all_flags(plan: PlanFile, form: Form, max_wait_s: float | None, release: Release) -> tuple[Flag, ...]:
    """The arguments as if the release had every flag, with the limits that it sets by itself as well."""
    scheduler = Flag("--scheduler-cls", SCHEDULER_CLASS, f"fluidgate's scheduler, which runs {plan.policy} as planned")
    engine, own = plan.engine, _own_limits(plan, release)
    return (
        *([scheduler] if form == "plugin" else []),
        *_memory(plan),
        *_longest_request(plan),
        Flag(SEATS, str(engine.max_num_seqs), f"seats, as planned; {_instead_of(own.max_num_seqs)}"),
        *(_planned_admission(plan) if form == "plugin" else _stock_admission(plan)),
        Flag(
            TOKENS,
            str(engine.max_num_batched_tokens),
            f"tokens per iteration, as planned; {_instead_of(own.max_num_batched_tokens)}",
        ),
        *_interval(plan),
        *_switches(plan),
        *([] if max_wait_s is None else [_queue_limit(plan, max_wait_s)]),
    )


def _own_limits(plan: PlanFile, release: Release) -> ServerDefaults:
    """What a stock server sets on the planned machine."""
    own = plan.defaults.to_server()
    return own if release.number >= KNOWN_SINCE else ServerDefaults(max_model_len=own.max_model_len)


def _instead_of(default: int | None) -> str:
    return "vLLM's default for this GPU is not known" if default is None else f"vLLM's default here is {default:,}"


def _stock_limits(plan: PlanFile, flags: Sequence[Flag], release: Release) -> set[str]:
    """Those of the flags for seats and token budget that the others make a stock server set by itself."""
    own, longest = _own_limits(plan, release), plan.engine.max_model_len
    seats, tokens = (int(next(flag.value for flag in flags if flag.name == name)) for name in (SEATS, TOKENS))
    stock = set()
    if own.max_num_seqs is not None and own.with_flags(None, tokens, longest).max_num_seqs == seats:
        stock.add(SEATS)
    if own.max_num_batched_tokens is not None and own.with_flags(seats, None, longest).max_num_batched_tokens == tokens:
        stock.add(TOKENS)
    return stock


def is_stock(plan: PlanFile) -> bool:
    """Whether vLLM's own flags are the plan's policy itself."""
    return isinstance(plan.make_policy(), Greedy | Watermark | ConcurrencyCap | Interval)


def serve_command(flags: Sequence[Flag], model: str, plan_path: Path | str | None = None) -> str:
    """The line to type: `vllm serve` with `flags`, quoted for a POSIX shell; `plan_path` for the plugin.

    Raises:
        InputError: a model name that the command line cannot take.
    """
    if not model or model.startswith("-"):
        raise InputError(f"model name {model!r} cannot be served; give a Hugging Face name or a folder")
    words = ["vllm", "serve", model, *(word for flag in flags for word in flag.arguments)]
    environment = "" if plan_path is None else f"{PLAN_VARIABLE}={shlex.quote(str(plan_path))} "
    return environment + shlex.join(words)


def _memory(plan: PlanFile) -> list[Flag]:
    """What sets the number of KV blocks."""
    model, machine = plan.model, plan.hardware
    flags = []
    if model.tensor_parallel_size is not None and model.tensor_parallel_size > 1:
        gpus = str(model.tensor_parallel_size)
        flags.append(Flag("--tensor-parallel-size", gpus, "GPUs that share the model, as planned"))
    if model.pipeline_parallel_size is not None and model.pipeline_parallel_size > 1:
        stages = str(model.pipeline_parallel_size)
        flags.append(Flag("--pipeline-parallel-size", stages, "stages that hold the layers in turn, as planned"))
    if model.kv_cache_dtype is not None:
        flags.append(Flag("--kv-cache-dtype", model.kv_cache_dtype, "of the KV cache, as planned; vLLM's own is auto"))
    if model.gpu_memory_utilization not in (None, DEFAULT_MEMORY_UTILIZATION):
        why = f"leaves about {machine.num_gpu_blocks:,} KV blocks; compare with vLLM's log"
        flags.append(Flag("--gpu-memory-utilization", repr(model.gpu_memory_utilization), why))
    if machine.block_size != VLLM_BLOCK_SIZE and not machine.chooses_block_size:
        flags.append(Flag("--block-size", str(machine.block_size), "tokens per KV block, as planned"))
    return flags


def _longest_request(plan: PlanFile) -> list[Flag]:
    longest, own, held = plan.engine.max_model_len, plan.defaults.max_model_len, plan.hardware.longest_held_tokens
    # check_enough_kv_cache_memory in vllm/v1/core/kv_cache_utils.py
    if longest is not None and held is not None and longest > held:
        return [Flag(LONGEST, str(held), f"the KV cache does not hold {longest:,} tokens, and vLLM would not start")]
    if longest in (None, own):
        return []
    why = "tokens of the longest request, as planned"
    if own is not None and longest is not None and longest > own:
        why = f"longest request; above the model's own {own:,}: set {LONG_VARIABLE}=1"
    elif own is not None:
        why += f"; the model's own is {own:,}"
    return [Flag(LONGEST, str(longest), why)]


def _planned_admission(plan: PlanFile) -> list[Flag]:
    """vLLM's own admission limits, where the plan was made with them."""
    engine = plan.engine
    flags = []
    if engine.max_num_active_seqs is not None:
        flags.append(_active(engine.max_num_active_seqs, "most residents, as planned"))
    if engine.watermark > 0:
        flags.append(_watermark(engine.watermark, "of the blocks stay free at admission, as planned"))
    return flags


def _stock_admission(plan: PlanFile) -> list[Flag]:
    """The policy in vLLM's own flags, or the two of them that come nearest to it."""
    policy, engine, planned = plan.make_policy(), plan.engine, plan.planned
    if isinstance(policy, Greedy | Watermark | Interval):
        return _planned_admission(plan)
    if isinstance(policy, ConcurrencyCap):
        cap_flag = _active(min(int(policy.cap), engine.seats), "the policy itself: most requests that hold KV at once")
        return [cap_flag, *(flag for flag in _planned_admission(plan) if flag.name != cap_flag.name)]
    cap = max(1, min(int(planned.concurrency_cap), engine.seats))
    share = max(engine.watermark, round(planned.watermark, 3))
    return [
        _active(cap, f"nearest to {plan.policy} in stock vLLM: n*, the residents at the boundary"),
        _watermark(share, "of the blocks stay free at admission: two sd of what residents may still need"),
    ]


def _active(cap: int, why: str) -> Flag:
    return Flag(ACTIVE, str(cap), why)


def _watermark(share: float, why: str) -> Flag:
    return Flag("--watermark", repr(share), f"{percent(share)} {why}")


def _interval(plan: PlanFile) -> list[Flag]:
    """The interval between prompts: the engine's that was planned with, or else the one that the plan proposes.

    It is counted in steps, so none goes with a policy that may pause all residents (`engine.refusals`).
    """
    given, proposed = plan.engine.prefill_schedule_interval, plan.planned.prefill_interval
    if given > 1:
        return [Flag(INTERVAL, str(given), "prompts in one step of so many, as planned")]
    if proposed == 1 or isinstance(plan.make_policy(), Interval) or plan.make_policy().advance is not None:
        return []
    return [Flag(INTERVAL, str(proposed), "prompts share steps: the least mean E2E, by the plan")]


def _switches(plan: PlanFile) -> list[Flag]:
    """The other settings, where they differ from vLLM's defaults."""
    engine = plan.engine
    flags = []
    if not engine.enable_prefix_caching:
        flags.append(Flag("--no-enable-prefix-caching", "", "planned without reuse of equal prefixes"))
    if not engine.scheduler_reserve_full_isl:
        flags.append(Flag("--no-scheduler-reserve-full-isl", "", "planned to admit where the first chunk fits"))
    if engine.long_prefill_token_threshold:
        tokens = str(engine.long_prefill_token_threshold)
        flags.append(Flag("--long-prefill-token-threshold", tokens, "most prompt tokens of a request per iteration"))
    return flags


def _queue_limit(plan: PlanFile, max_wait_s: float) -> Flag:
    """Little's law at the boundary: a queue of λ_max·W clears in W seconds, behind n* residents."""
    if not 0 < max_wait_s <= MAX_SECONDS:
        raise InputError(f"max_wait_s = {max_wait_s} must be above 0 and at most {MAX_SECONDS:g} seconds")
    residents, rate = plan.planned.concurrency_cap, plan.planned.boundary_rate
    in_flight = min(ceil(residents + rate * max_wait_s), MAX_COUNT)
    why = f"{number(residents)} residents, {number(max_wait_s)} s of queue at {number(rate)} req/s; else HTTP 503"
    return Flag(QUEUED, str(in_flight), why)
