"""`fluidgate serve-args`: a plan file as `vllm serve` lines, with fluidgate's scheduler and with stock flags alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.bounds import MAX_REPLICAS
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fluidgate.serving.flags import Flag, Form
    from fluidgate.serving.planfile import PlanFile

FORMS: tuple[Form, Form] = ("plugin", "stock")

EXAMPLE = "Example: `fluidgate serve-args plan.json --model-name meta-llama/Llama-2-7b-hf`"

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file, from `fluidgate plan --save`.")]
ModelName = Annotated[str | None, typer.Option("--model-name", help="Hugging Face name or folder of the model.")]
MaxWait = Annotated[
    float | None,
    typer.Option("--max-wait-s", help="Refuse requests (HTTP 503) that would wait longer than this; without it, none."),
]
VllmVersion = Annotated[
    str | None,
    typer.Option(
        "--vllm-version", help="The server's vLLM, such as 0.30: older ones lack some flags. The newest if not given."
    ),
]


LlmD = Annotated[
    Path | None,
    typer.Option(
        "--llm-d", help="Write thresholds for llm-d's Endpoint Picker, an EndpointPickerConfig, to this file."
    ),
]
Replicas = Annotated[
    int, typer.Option("--replicas", help="With --llm-d: servers behind the picker.", min=1, max=MAX_REPLICAS)
]


def _print_support(wanted: bool) -> None:
    if wanted:
        from fluidgate.serving.versions import support_table

        print(support_table())
        raise typer.Exit


Support = Annotated[
    bool,
    typer.Option(
        "--support", callback=_print_support, is_eager=True, help="Print what is tested on which vLLM, and exit."
    ),
]


def command(
    plan_path: PlanPath,
    model_name: ModelName = None,
    max_wait_s: MaxWait = None,
    vllm_version: VllmVersion = None,
    llm_d: LlmD = None,
    replicas: Replicas = 1,
    policy_file: o.PolicyFile = None,
    output_format: o.OutputFormat = o.Format.TABLE,
    _support: Support = False,
) -> None:
    """Print the `vllm serve` line of a plan, in two forms: with fluidgate's scheduler, and with stock flags alone."""
    from fluidgate.policies import load_policy_file
    from fluidgate.serving.flags import lost, serve_command, serve_flags
    from fluidgate.serving.planfile import PlanFile
    from fluidgate.serving.versions import NEWEST, known_release

    if llm_d is None and replicas != 1:
        raise InputError("--replicas counts the servers behind llm-d's picker; give --llm-d too")
    load_policy_file(policy_file)
    o.try_outputs(llm_d)
    plan = PlanFile.load(plan_path)
    model = _model(plan, model_name, plan_path)
    release = NEWEST if vllm_version is None else known_release(vllm_version)
    plugin = serve_flags(plan, "plugin", max_wait_s=max_wait_s, release=release)
    stock = serve_flags(plan, "stock", max_wait_s=max_wait_s, release=release)
    losses = {form: lost(plan, form, max_wait_s=max_wait_s, release=release) for form in FORMS}
    forms = [
        (f"With fluidgate's scheduler: {plan.policy_line()}", serve_command(plugin, model, plan_path), plugin),
        (f"Stock vLLM, {_likeness(plan)}", serve_command(stock, model), stock),
    ]
    if output_format is o.Format.JSON:
        made = {name: _plain(*form) | {"lost": losses[name]} for name, form in zip(FORMS, forms, strict=True)}
        o.write_json(
            {
                "model": model,
                "kv_cache": plan.hardware.kv_cache,
                "policy": plan.policy,
                "vllm_version": str(release),
                **made,
            }
        )
    else:
        out = o.console(output_format)
        for title, line, flags in forms:
            out.print(title, style="bold", highlight=False)
            print(line)  # as it is: a wrapped line could not be copied
            if flags:
                out.print(_table(flags))
        if plan.hardware.kv_cache:
            out.print(f"KV cache as planned: {plan.hardware.kv_cache}", highlight=False)
    if llm_d is not None:
        _write_picker(plan, plan_path, llm_d, replicas, max_wait_s)
    for sentence in dict.fromkeys([*losses["plugin"], *losses["stock"]]):
        o.say(sentence)
    if plan.make_policy().sheds:
        o.say(
            "the policy sheds who cannot be served in time; add --middleware fluidgate.serving.admission.Admission to "
            "refuse them before any work"
        )
    elif plan.planned.load > 1.0 and max_wait_s is None:
        o.say("the plan is for an overload, where the queue grows without end: --max-wait-s bounds the wait")


def _write_picker(plan: PlanFile, plan_path: Path, path: Path, replicas: int, max_wait_s: float | None) -> None:
    from fluidgate.output import write_text
    from fluidgate.serving.llm_d_values import endpoint_picker_config, endpoint_picker_values

    values = endpoint_picker_values(plan, replicas=replicas, max_wait_s=max_wait_s)
    words = ["fluidgate", "serve-args", str(plan_path), "--llm-d", str(path)]
    words += ["--replicas", str(replicas)] if replicas > 1 else []
    words += [] if max_wait_s is None else ["--max-wait-s", f"{max_wait_s:g}"]
    write_text(path, endpoint_picker_config(plan, values, shlex.join(words), replicas))
    o.say(f"wrote {path}")


def _model(plan: PlanFile, given: str | None, path: Path) -> str:
    name = given or plan.model.name
    if name is None:
        raise InputError(
            f"{path}: was planned from a hardware file or a config alone, which names no model; add --model-name"
        )
    if given is None:
        remark_own_name(name, "with --model-name")
    return name


def remark_own_name(name: str, where: str) -> None:
    """Say that vLLM does not load the model by this name, if it is not one of Hugging Face; and where to give that."""
    if "/" not in name:
        o.say(f"{name} is fluidgate's name for the model: give the name that vLLM loads {where}")


def _likeness(plan: PlanFile) -> str:
    from fluidgate.serving.flags import is_stock

    return f"which has {plan.policy} itself:" if is_stock(plan) else f"as near to {plan.policy} as its flags allow:"


def _table(flags: Sequence[Flag]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("flag", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=24)
    table.add_column("why")
    for flag in flags:
        table.add_row(Text(flag.name), Text(flag.value), Text(flag.why))
    return table


def _plain(_title: str, line: str, flags: Sequence[Flag]) -> dict[str, Any]:
    from dataclasses import asdict

    return {"command": line, "flags": [asdict(flag) for flag in flags]}
