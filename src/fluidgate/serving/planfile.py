"""`PlanFile`: what `fluidgate plan --save` writes and a server reads. One JSON file: the policy, and what it was
planned for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_COUNT, MAX_KV_TOKENS, MAX_NUMBER
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, ServerDefaults
from fluidgate.jsonfile import plain, read_object
from fluidgate.output import write_text
from fluidgate.policies import Policy, policy_class
from fluidgate.serving.labels import Classes
from fluidgate.version import version
from fluidgate.words import has_control, number, shown

if TYPE_CHECKING:
    from fluidgate.engine import EngineConfig
    from fluidgate.fluid import FluidPlan

FORMAT: Final = "fluidgate-plan"
VERSION: Final = 1
MAX_PARAMETER = 2**53
"""A policy's parameters are floats where it runs, and these hold no larger whole numbers exactly."""
_AGAIN = "make the file again with `fluidgate plan … --save`"

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
Share = Annotated[float, Field(ge=0, lt=1)]
Scalar = bool | Annotated[int, Field(ge=-MAX_PARAMETER, le=MAX_PARAMETER)] | float
Parameter = Scalar | Annotated[tuple[Scalar, ...], Field(strict=False)]


def _without_control(text: str) -> str:
    if has_control(text):
        raise ValueError("it holds a control character; take it out")
    return text


Name = Annotated[str, AfterValidator(_without_control)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ServedModel(_Section):
    """What `vllm serve` loads, and on how much of which GPUs; None where the plan does not know."""

    name: Annotated[Name, Field(min_length=1)] | None = None
    tensor_parallel_size: Count | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None


class Machine(_Section):
    """The KV cache that was planned for; one of the blocks is vLLM's null block and holds nothing.

    `longest_held_tokens` is the longest request, up to the engine's limit, that it holds; None: there is no limit.
    """

    name: Name
    num_gpu_blocks: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)]
    kv_capacity_tokens: Annotated[int, Field(ge=1, le=MAX_KV_TOKENS)]
    longest_held_tokens: Count | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        capacity = (self.num_gpu_blocks - 1) * self.block_size
        if self.kv_capacity_tokens != capacity:
            raise ValueError(
                f"kv_capacity_tokens = {self.kv_capacity_tokens}, but (num_gpu_blocks - 1) × block_size is {capacity}"
            )
        return self


class Defaults(_Section):
    """What vLLM sets on the planned machine by itself, see `ServerDefaults`; None: not known."""

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None

    def to_server(self) -> ServerDefaults:
        """For `serve_flags`."""
        return ServerDefaults(**dict(self))


class EngineLimits(_Section):
    """vLLM's settings in force, the policy's own among them; named as in `EngineConfig`."""

    max_num_seqs: Count
    max_num_active_seqs: Count | None
    max_num_batched_tokens: Count
    watermark: Share
    enable_prefix_caching: bool
    scheduler_reserve_full_isl: bool
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    max_model_len: Count | None = None

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


class Traffic(_Section):
    """What arrives: requests per second, and tokens."""

    rate: Positive
    mean_prompt_tokens: Positive
    max_prompt_tokens: Count
    mean_output_tokens: Positive
    max_output_tokens: Count


class Planned(_Section):
    """The fluid plan's numbers.

    Attributes:
        boundary_rate: the stability boundary, req/s.
        load: arrivals over the boundary.
        onset_rate: req/s from which memory control matters; None: never.
        concurrency_cap: n*, residents at the boundary.
        rate_limit: x*, admissions per iteration at the boundary.
        watermark: the share of blocks to keep free at saturation.
        kv_peak: mean + 2 sd of greedy admission's KV over the capacity, at this load; above 1 it overflows.
    """

    boundary_rate: Positive
    load: Positive
    onset_rate: Positive | None
    concurrency_cap: Positive
    rate_limit: Positive
    watermark: Share
    kv_peak: Annotated[float, Field(ge=0, le=MAX_NUMBER)]


class ClassNames(_Section):
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


class PlanFile(_Section):
    """A policy with its parameters, and the plan they come from; `parameters` are the policy's fields by name."""

    format: Literal["fluidgate-plan"] = FORMAT
    version: Literal[1] = VERSION
    fluidgate: Name
    policy: Name
    parameters: dict[str, Parameter]
    model: ServedModel
    hardware: Machine
    engine: EngineLimits
    traffic: Traffic
    planned: Planned
    verdict: tuple[Name, ...]
    classes: ClassNames = ClassNames()
    defaults: Defaults = Defaults()

    @classmethod
    def of(
        cls,
        plan: FluidPlan,
        policy: Policy,
        config: EngineConfig,
        model: ServedModel | None = None,
        class_map: Sequence[str] = (),
    ) -> Self:
        """The file for `policy` under `plan`, which was made for the limits of `config` on its hardware.

        Args:
            class_map: `adapter:NAME=CLASS` or `priority:NUMBER=CLASS`, for requests that do not name their class.

        Raises:
            InputError: an engine that vLLM has not, a plan for other limits, a policy that cannot be kept in a file or
                may leave requests waiting forever, a class that the plan does not know.
        """
        if config.mode != "vllm" or config.preemption != "recompute":
            raise InputError(f"vLLM has no mode {config.mode} with preemption {config.preemption}: plan with mode vllm")
        config = config.on(plan.hardware)
        budget = config.token_budget(plan.mix.max_prompt_tokens + plan.mix.max_output_tokens)
        _refuse_other_limits(
            plan,
            {"max_num_seqs": config.seats, "max_num_batched_tokens": budget, "max_model_len": config.max_model_len},
        )
        if type(policy).rank is not None:
            raise InputError(f"policy {policy.name} orders the queue, and vLLM's queue has its own order; use simulate")
        _refuse_idling(policy)
        if policy_class(policy.name) is not type(policy):
            raise InputError(f"{type(policy).__name__} is not the policy registered as {policy.name!r}; register it")
        try:
            file = cls(
                fluidgate=version(),
                policy=policy.name,
                parameters=plain(policy),
                model=model or ServedModel(),
                hardware=_machine(plan, config.max_model_len),
                engine=_engine(replace(config, **policy.engine_settings), budget),
                traffic=_traffic(plan),
                planned=_planned(plan),
                verdict=plan.verdict,
                classes=_class_names(plan, class_map),
                defaults=Defaults(**vars(plan.hardware.server)),
            )
        except ValidationError as error:
            raise InputError(f"the plan cannot be saved: {_sentence(error)}") from None
        if file.make_policy() != policy:
            raise InputError(f"policy {policy.name} cannot be saved: give it numbers and tuples of numbers as fields")
        return file

    def save(self, path: Path | str) -> None:
        """Write the file; `load` reads it back exactly.

        Raises:
            InputError: the file cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The plan in a file that `save` wrote.

        Raises:
            InputError: no such file, not a plan, another version, or a value that cannot be; names file and key.
        """
        values = read_object(path, "a plan file, as `fluidgate plan … --save` writes it").values
        _refuse_other_formats(values, path)
        try:
            file = cls.model_validate_json(json.dumps(values))
            _refuse_idling(file.make_policy())
        except ValidationError as error:
            raise InputError(f"{path}: {_sentence(error)}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return file

    def make_policy(self) -> Policy:
        """The policy, equal to the one that was saved.

        Raises:
            InputError: an unknown policy, or parameters that are not its own.
        """
        cls = policy_class(self.policy)
        names = [field.name for field in fields(cls)]
        for old in self.parameters.keys() & cls.renamed.keys():
            raise InputError(f"'parameters.{old}' is now called {cls.renamed[old]}; {_AGAIN}")
        for name in names:
            if name not in self.parameters:
                raise InputError(f"'parameters.{name}' is missing: policy {self.policy} needs it; {_AGAIN}")
        for name in self.parameters:
            if name not in names:
                listed = ", ".join(names) or "none"
                raise InputError(f"'parameters.{name}' is not a parameter of policy {self.policy} (known: {listed})")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(self.parameters), strict=True)
        except ValidationError as error:
            raise InputError(_sentence(error, "parameters")) from None
        except (PydanticUserError, NameError) as error:
            raise InputError(f"policy {self.policy} has a field that is not a number or a tuple: {error}") from None

    def policy_line(self) -> str:
        """The policy and its parameters in a line, for people."""
        values = [f"{name} = {_brief(value)}" for name, value in self.parameters.items()]
        return f"{self.policy} ({', '.join(values)})" if values else self.policy


def _refuse_other_limits(plan: FluidPlan, engine: dict[str, int | None]) -> None:
    for name, limit in engine.items():
        planned = getattr(plan.limits, name)
        if planned != limit:
            raise InputError(f"the plan is for {name} = {planned}, the engine has {limit}; plan for the engine")


def _refuse_idling(policy: Policy) -> None:
    if policy.may_idle:
        raise InputError(
            f"policy {policy.name} with strict=true may leave requests waiting forever, so no server runs it; plan "
            "without strict=true, or use simulate"
        )


def _machine(plan: FluidPlan, max_model_len: int | None) -> Machine:
    hardware = plan.hardware
    return Machine(
        name=hardware.name,
        num_gpu_blocks=int(hardware.num_gpu_blocks),
        block_size=int(hardware.block_size),
        kv_capacity_tokens=int(hardware.kv_capacity_tokens),
        longest_held_tokens=None if max_model_len is None else _longest_held(hardware, max_model_len),
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


def _engine(config: EngineConfig, token_budget: int) -> EngineLimits:
    return EngineLimits(
        max_num_seqs=config.most_seqs,
        max_num_active_seqs=config.max_num_active_seqs,
        max_num_batched_tokens=token_budget,
        watermark=float(config.watermark_share),
        enable_prefix_caching=config.enable_prefix_caching,
        scheduler_reserve_full_isl=config.scheduler_reserve_full_isl,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        max_model_len=config.max_model_len,
    )


def _class_names(plan: FluidPlan, class_map: Sequence[str]) -> ClassNames:
    classes = plan.mix.classes
    class_maps: dict[str, dict[str, str]] = {"adapter": {}, "priority": {}}
    for entry in class_map:
        match = re.fullmatch(r"(adapter|priority):(.+)=([^=]+)", entry)
        if match is None:
            raise InputError(f"{entry!r} does not tell a class: give adapter:NAME=CLASS or priority:NUMBER=CLASS")
        class_maps[match[1]][match[2]] = match[3]
    names = tuple(summary.name for summary in classes) if len(classes) > 1 else ()
    return ClassNames(names=names, by_adapter=class_maps["adapter"], by_priority=class_maps["priority"])


def _traffic(plan: FluidPlan) -> Traffic:
    mix = plan.mix
    return Traffic(
        rate=float(mix.rate),
        mean_prompt_tokens=float(mix.mean_prompt_tokens),
        max_prompt_tokens=mix.max_prompt_tokens,
        mean_output_tokens=float(mix.mean_output_tokens),
        max_output_tokens=mix.max_output_tokens,
    )


def _planned(plan: FluidPlan) -> Planned:
    stable = plan.stability
    return Planned(
        boundary_rate=float(stable.boundary_rate),
        load=float(stable.load),
        onset_rate=None if stable.onset_rate is None else float(stable.onset_rate),
        concurrency_cap=float(plan.concurrency_cap),
        rate_limit=float(plan.rate_limit),
        watermark=float(plan.watermark),
        kv_peak=float(stable.kv_peak),
    )


MAX_SHOWN = 8
"""Longer lists are summed up."""


def _brief(value: Parameter) -> str:
    if isinstance(value, tuple):
        if len(value) > MAX_SHOWN:
            return f"{len(value)} values from {_brief(min(value))} to {_brief(max(value))}"
        return f"[{', '.join(map(_brief, value))}]"
    return str(value).lower() if isinstance(value, bool) else number(value)


def _refuse_other_formats(values: dict[str, Any], path: Path | str) -> None:
    if values.get("format") != FORMAT:
        text = shown(values.get("format"))
        raise InputError(
            f"{path}: is not a plan for a server: its 'format' is {text}, not {FORMAT!r}; {_AGAIN} "
            "(--format json and --output-dir write a report, which no server reads)"
        )
    file_version = values.get("version")
    if type(file_version) is not int or file_version != VERSION:
        writer = f"{values.get('fluidgate', '(unknown)')!s:.40}"
        raise InputError(
            f"{path}: 'version' = {shown(file_version)} was written by fluidgate {writer}; this is "
            f"fluidgate {version()}, which reads version {VERSION}: install the fluidgate that wrote it, or {_AGAIN}"
        )


def _sentence(error: ValidationError, *section: str) -> str:
    """The first problem: key, value, what is wrong, and what to do."""
    first = error.errors(include_url=False)[0]
    place = (*section, *map(str, first["loc"]))
    if not section and place[:1] == ("parameters",) and len(place) > 1:
        key = f"'parameters.{place[1]}'"
        return f"{key} = {shown(first['input'])} must be a finite number, true, false, or a list of those; {_AGAIN}"
    key = f"'{'.'.join(place)}'"
    if first["type"] == "missing":
        return f"{key} is missing; {_AGAIN}"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a known key; take it out, or {_AGAIN}"
    if first["type"] == "value_error":  # a section that does not add up: the message names the keys
        return ": ".join([*place, str(first["ctx"]["error"])])
    return f"{key} = {shown(first['input'])}: {first['msg'].replace('Input should', 'it must')}; {_AGAIN}"
