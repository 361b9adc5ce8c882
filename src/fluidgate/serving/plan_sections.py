"""Sections of a plan file: what each holds, what it refuses, and how it comes from a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_COUNT, MAX_KV_TOKENS, MAX_NUMBER
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, ServerDefaults
from fluidgate.hardware.quantization import KV_DTYPES
from fluidgate.serving.labels import Classes
from fluidgate.words import has_control

if TYPE_CHECKING:
    from fluidgate.engine import EngineConfig
    from fluidgate.fluid import FluidPlan

MAX_PARAMETER = 2**53
"""A policy's parameters are floats where it runs, and these hold no larger whole numbers exactly."""
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
Share = Annotated[float, Field(ge=0, lt=1)]
Scalar = bool | Annotated[int, Field(ge=-MAX_PARAMETER, le=MAX_PARAMETER)] | float
Parameter = Scalar | Annotated[tuple[Scalar, ...], Field(strict=False)]


def _without_control(text: str) -> str:
    if has_control(text):
        raise ValueError("it holds a control character; take it out")
    return text


def _known_dtype(text: str) -> str:
    if text not in KV_DTYPES:
        raise ValueError(f"it must be one of {', '.join(KV_DTYPES)}")
    return text


Name = Annotated[str, AfterValidator(_without_control)]


class Section(BaseModel):
    """Keys of known types, and no others."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ServedModel(Section):
    """What `vllm serve` loads, and on how much of which GPUs; None where the plan does not know."""

    name: Annotated[Name, Field(min_length=1)] | None = None
    tensor_parallel_size: Count | None = None
    pipeline_parallel_size: Count | None = None
    kv_cache_dtype: Annotated[str, AfterValidator(_known_dtype)] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None


class Machine(Section):
    """The KV cache that was planned for; one of the blocks is vLLM's null block and holds nothing.

    `longest_held_tokens` is the longest request, up to the engine's limit, that it holds; None: there is no limit.
    `kv_cache` says what its groups of layers keep, and in which dtype; `chooses_block_size`: vLLM does by itself, for
    layers with a state.
    """

    name: Name
    num_gpu_blocks: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)]
    kv_capacity_tokens: Annotated[int, Field(ge=1, le=MAX_KV_TOKENS)]
    longest_held_tokens: Count | None = None
    kv_cache: Name = ""
    kv_groups: Count = 1
    chooses_block_size: bool = False

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        capacity = (self.num_gpu_blocks - 1) * self.block_size
        if self.kv_capacity_tokens != capacity:
            raise ValueError(
                f"kv_capacity_tokens = {self.kv_capacity_tokens}, but (num_gpu_blocks - 1) × block_size is {capacity}"
            )
        return self


class Defaults(Section):
    """What vLLM sets on the planned machine by itself, see `ServerDefaults`; None: not known."""

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None

    def to_server(self) -> ServerDefaults:
        """For `serve_flags`."""
        return ServerDefaults(**dict(self))


class EngineLimits(Section):
    """vLLM's settings in force, the policy's own among them; named as in `EngineConfig`."""

    max_num_seqs: Count
    max_num_active_seqs: Count | None
    max_num_batched_tokens: Count
    watermark: Share
    enable_prefix_caching: bool
    scheduler_reserve_full_isl: bool
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    max_model_len: Count | None = None
    prefill_schedule_interval: Count = 1

    @model_validator(mode="after")
    def _acceptable_to_vllm(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens = {self.max_num_batched_tokens} is below max_num_seqs = {self.max_num_seqs}, "
                "which vLLM refuses; plan with fewer seats (--max-num-seqs)"
            )
        if self.seats > self.max_num_seqs:
            raise ValueError(f"max_num_active_seqs = {self.seats} is above max_num_seqs = {self.max_num_seqs}")
        return self

    @property
    def seats(self) -> int:
        """Most residents that admission may reach."""
        return self.max_num_active_seqs or self.max_num_seqs


class Traffic(Section):
    """What arrives: requests per second, and tokens."""

    rate: Positive
    mean_prompt_tokens: Positive
    max_prompt_tokens: Count
    mean_output_tokens: Positive
    max_output_tokens: Count


class Planned(Section):
    """The fluid plan's numbers.

    Attributes:
        boundary_rate: the stability boundary, req/s.
        load: arrivals over the boundary.
        onset_rate: req/s from which memory control matters; None: never.
        concurrency_cap: n*, residents at the boundary.
        rate_limit: x*, admissions per iteration at the boundary.
        watermark: the share of blocks to keep free at saturation.
        prefill_interval: the `prefill_schedule_interval` with the least mean E2E; 1 where none gains.
        kv_peak: mean + 2 sd of greedy admission's KV over the capacity, at this load; above 1 it overflows.
    """

    boundary_rate: Positive
    load: Positive
    onset_rate: Positive | None
    concurrency_cap: Positive
    rate_limit: Positive
    watermark: Share
    kv_peak: Annotated[float, Field(ge=0, le=MAX_NUMBER)]
    prefill_interval: Count = 1


class ClassNames(Section):
    """The labels of the traffic that was planned for, and which one a request has if it names none.

    Attributes:
        names: in the policy's order; empty where requests are not distinguished.
        by_adapter: label by the name of the LoRA adapter.
        by_priority: label by the request's priority, a whole number.
    """

    names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    by_adapter: dict[str, str] = {}
    by_priority: dict[str, str] = {}

    @model_validator(mode="after")
    def _refuse_unknown_names(self) -> Self:
        for key, name in (self.by_adapter | self.by_priority).items():
            if name not in self.names:
                listed = ", ".join(self.names) or "none"
                raise ValueError(f"{key!r} is given to class {name!r}, which the plan does not know (known: {listed})")
        for key in self.by_priority:
            if not re.fullmatch(r"-?\d{1,9}", key):
                raise ValueError(f"by_priority: {key!r} must be a whole number")
        return self

    def to_classes(self) -> Classes:
        """For the plugin."""
        return Classes(self.names, self.by_adapter, {int(key): name for key, name in self.by_priority.items()})


def machine_of(plan: FluidPlan, max_model_len: int | None) -> Machine:
    """The section of a plan's machine, under the engine's longest request."""
    hardware = plan.hardware
    return Machine(
        name=hardware.name,
        num_gpu_blocks=int(hardware.num_gpu_blocks),
        block_size=int(hardware.block_size),
        kv_capacity_tokens=int(hardware.kv_capacity_tokens),
        longest_held_tokens=None if max_model_len is None else _longest_held(hardware, max_model_len),
        kv_cache=hardware.law.title,
        kv_groups=len(hardware.law.groups),
        chooses_block_size=any(group.kind == "state" for group in hardware.law.groups),
    )


def _longest_held(hardware: Hardware, most: int) -> int:
    """Tokens of the longest request, up to `most`, that the blocks hold alone."""
    held, too_long = 1, most + 1
    while too_long - held > 1:
        middle = (held + too_long) // 2
        if hardware.law.blocks(middle) < hardware.num_gpu_blocks:
            held = middle
        else:
            too_long = middle
    return held


def engine_of(config: EngineConfig, token_budget: int) -> EngineLimits:
    """The section of the engine's settings in force."""
    return EngineLimits(
        max_num_seqs=config.most_seqs,
        max_num_active_seqs=config.max_num_active_seqs,
        max_num_batched_tokens=token_budget,
        watermark=float(config.watermark_share),
        enable_prefix_caching=config.enable_prefix_caching,
        scheduler_reserve_full_isl=config.scheduler_reserve_full_isl,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        max_model_len=config.max_model_len,
        prefill_schedule_interval=config.prefill_schedule_interval,
    )


def class_names_of(plan: FluidPlan, class_map: Sequence[str]) -> ClassNames:
    """The section of labelled traffic, and what gives requests without a label theirs.

    Raises:
        InputError: an entry that tells no class.
    """
    classes = plan.mix.classes
    class_maps: dict[str, dict[str, str]] = {"adapter": {}, "priority": {}}
    for entry in class_map:
        match = re.fullmatch(r"(adapter|priority):(.+)=([^=]+)", entry)
        if match is None:
            raise InputError(f"{entry!r} does not tell a class: give adapter:NAME=CLASS or priority:NUMBER=CLASS")
        class_maps[match[1]][match[2]] = match[3]
    names = tuple(summary.name for summary in classes) if len(classes) > 1 else ()
    return ClassNames(names=names, by_adapter=class_maps["adapter"], by_priority=class_maps["priority"])


def traffic_of(plan: FluidPlan) -> Traffic:
    """The section of the requests."""
    mix = plan.mix
    return Traffic(
        rate=float(mix.rate),
        mean_prompt_tokens=float(mix.mean_prompt_tokens),
        max_prompt_tokens=mix.max_prompt_tokens,
        mean_output_tokens=float(mix.mean_output_tokens),
        max_output_tokens=mix.max_output_tokens,
    )


def planned_of(plan: FluidPlan) -> Planned:
    """The section of what the plan found."""
    stable = plan.stability
    return Planned(
        boundary_rate=float(stable.boundary_rate),
        load=float(stable.load),
        onset_rate=None if stable.onset_rate is None else float(stable.onset_rate),
        concurrency_cap=float(plan.concurrency_cap),
        rate_limit=float(plan.rate_limit),
        watermark=float(plan.watermark),
        kv_peak=float(stable.kv_peak),
        prefill_interval=plan.prefill_interval.steps,
    )
