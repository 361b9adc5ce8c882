"""`PlanFile`: what `fluidgate plan --save` writes and a server reads. One JSON file: the policy, and what it was
planned for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import (
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from fluidgate.errors import InputError
from fluidgate.jsonfile import plain, read_object
from fluidgate.output import write_text
from fluidgate.policies import Policy, policy_class
from fluidgate.serving.plan_sections import (
    ClassNames,
    Defaults,
    EngineLimits,
    Machine,
    Name,
    Parameter,
    Planned,
    Section,
    ServedModel,
    Traffic,
    class_names_of,
    engine_of,
    machine_of,
    planned_of,
    traffic_of,
)
from fluidgate.version import version
from fluidgate.words import number, shown

if TYPE_CHECKING:
    from fluidgate.engine import EngineConfig
    from fluidgate.fluid import FluidPlan

FORMAT: Final = "fluidgate-plan"
VERSION: Final = 1
_AGAIN = "make the file again with `fluidgate plan … --save`"


class PlanFile(Section):
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
        if config.prompts_arrive_computed:
            raise InputError(
                "the plugin does not follow KV connectors, so a decode-only server cannot run it: plan without --save"
            )
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
                hardware=machine_of(plan, config.max_model_len),
                engine=engine_of(replace(config, **policy.engine_settings), budget),
                traffic=traffic_of(plan),
                planned=planned_of(plan),
                verdict=plan.verdict,
                classes=class_names_of(plan, class_map),
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
        write_text(path, self.text)

    @property
    def text(self) -> str:
        """What the file holds."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

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
        """The policy and its parameters in a line, for people, without those that are off as they are by default."""
        default = {field.name: field.default for field in fields(policy_class(self.policy))}
        shown = {name: value for name, value in self.parameters.items() if value or value != default.get(name)}
        values = [f"{name} = {_brief(value)}" for name, value in shown.items()]
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
