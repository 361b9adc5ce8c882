"""`fluidgate size`: the cheapest fleet that keeps its promises, with proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fluidgate.bounds import MAX_GPUS, MAX_REPEATS
from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.cli.day_options import DayOptions, day_table, scaling_line
from fluidgate.cli.hardware_options import DEFAULT_MODEL
from fluidgate.cli.serve_args import remark_own_name
from fluidgate.cli.size_files import MANIFEST, PLAN, plan_file, serve_line, write_files
from fluidgate.errors import InputError
from fluidgate.words import listed, number, shown

if TYPE_CHECKING:
    from fluidgate.runs.scaling import HourlyFleet
    from fluidgate.runs.size import Choices, Machine, Sizing
    from fluidgate.serving.plan_sections import ServedModel
    from fluidgate.serving.planfile import PlanFile
    from fluidgate.workload import Synthetic, Workload

T = TypeVar("T")

EXAMPLE = (
    "Example: `fluidgate size --preset azure-conv-2023 --rate 40 --model llama-3.1-8b --gpu h100,l40s --tp 1,2 "
    "--slo p99:ttft:2000 p95:tpot:60 --price h100=2.5,l40s=0.9`"
)

_T, _M, _S = "Traffic", "Machines", "Search"


@dataclass(frozen=True)
class TrafficOptions(o.TraceOptions, o.TraceFile):
    """What is to be served."""

    preset: o.Preset = None
    rate: o.Rate = None
    growth: Annotated[float, typer.Option("--growth", help="Factor on the rate.", rich_help_panel=_T)] = 1.0
    requests: Annotated[
        int | None, typer.Option("--requests", help="Requests of a run, if not 20,000.", rich_help_panel=_T)
    ] = None
    seed: o.Seed = 0

    def source(self) -> Workload | Synthetic:
        """The preset, or the whole trace at the rate."""
        shared = {field.name: getattr(self, field.name) for field in fields(o.TraceOptions)}
        options = o.WorkloadOptions(trace=self.trace, preset=self.preset, seed=self.seed, **shared)
        if self.trace is None:
            return options.synthetic()
        workload = options.load()
        has_arrivals = workload.duration_s > 0 or self.rate is None
        return workload if has_arrivals else replace(options, rate=self.rate).load()


@dataclass(frozen=True)
class MachineOptions:
    """What can be rented, and for how much."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help=f"Model name, {DEFAULT_MODEL} if not given; with --model-config any, or its own.",
            autocompletion=names.completed(names.models),
            rich_help_panel=_M,
        ),
    ] = None
    model_config: Annotated[
        Path | None,
        typer.Option("--model-config", help="Hugging Face config.json of the model.", rich_help_panel=_M),
    ] = None
    gpus: Annotated[
        str,
        typer.Option(
            "--gpu",
            help="GPUs to choose from, such as `h100,h200,l40s`; a name or a data sheet's file each.",
            rich_help_panel=_M,
        ),
    ] = "a100-80gb"
    tps: Annotated[
        str, typer.Option("--tp", help="Tensor-parallel GPUs of a replica, such as `1,2,4`.", rich_help_panel=_M)
    ] = "1"
    prices: Annotated[
        str | None,
        typer.Option(
            "--price",
            help="Of one GPU and hour, such as `h100=2.5,l40s=0.9`; else GPUs are counted.",
            rich_help_panel=_M,
        ),
    ] = None
    max_gpus: Annotated[
        int, typer.Option("--max-gpus", help="Of a fleet.", min=1, max=MAX_GPUS, rich_help_panel=_M)
    ] = 16
    kv_cache_dtype: Annotated[
        str, typer.Option("--kv-cache-dtype", help="As in vLLM: auto, bfloat16, fp8 …", rich_help_panel=_M)
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float, typer.Option("--gpu-memory-utilization", help="Share of GPU memory to use.", rich_help_panel=_M)
    ] = 0.92

    @property
    def named_model(self) -> str | None:
        """The model that is asked for; None: that of its config."""
        return self.model or (None if self.model_config else DEFAULT_MODEL)

    def served(self) -> ServedModel:
        """What is known of the model, for its server."""
        from fluidgate.serving.plan_sections import ServedModel

        return ServedModel(
            name=self.named_model,
            kv_cache_dtype=None if self.kv_cache_dtype == "auto" else self.kv_cache_dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
        )

    def load(self) -> tuple[Machine, ...]:
        """All of them, those that the model does not go on among them."""
        from fluidgate.runs.size import machines_of

        gpus = _listed(self.gpus, str, "--gpu")
        return machines_of(
            self.named_model,
            gpus,
            _listed(self.tps, int, "--tp"),
            _prices(self.prices, gpus),
            config=self.model_config,
            kv_cache_dtype=self.kv_cache_dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
        )


@dataclass(frozen=True)
class SearchOptions:
    """The settings that are tried, and how hard."""

    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            help="Policy or `name:key=value,…`; may be repeated, the first that is enough is taken.",
            autocompletion=names.completed(names.policies),
            rich_help_panel=_S,
        ),
    ] = None
    routers: Annotated[
        list[str] | None,
        typer.Option(
            "--router",
            help="Router in front of the replicas; may be repeated.",
            autocompletion=names.completed(names.routers),
            rich_help_panel=_S,
        ),
    ] = None
    seats: Annotated[
        str,
        typer.Option("--try-seats", help="Seats to try besides the server's own: `256,128`.", rich_help_panel=_S),
    ] = "256"
    budgets: Annotated[
        str,
        typer.Option(
            "--try-budgets", help="Token budgets to try besides the server's own: `4096,2048`.", rich_help_panel=_S
        ),
    ] = "2048"
    replications: Annotated[
        int, typer.Option("--replications", help="Most runs of a fleet.", max=MAX_REPEATS, rich_help_panel=_S)
    ] = 16
    alpha: Annotated[
        float, typer.Option("--alpha", help="Largest probability that a decision is wrong.", rich_help_panel=_S)
    ] = 0.05

    def choices(self) -> Choices:
        """In order of preference."""
        from fluidgate.runs.size import Choices

        default = Choices()
        return Choices(
            tuple(self.policies or default.policies),
            tuple(self.routers or default.routers),
            tuple(_listed(self.seats, int, "--try-seats")),
            tuple(_listed(self.budgets, int, "--try-budgets")),
        )


@o.grouped
def command(
    traffic: TrafficOptions,
    day: DayOptions,
    machines: MachineOptions,
    searching: SearchOptions,
    engine: o.EngineOptions,
    running: o.RunningOptions,
    output: o.OutputOptions,
    policy_file: o.PolicyFile = None,
    goodput: o.Goodput = None,
    objectives: o.Objectives = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write an HTML report to this file.", rich_help_panel="Output")
    ] = None,
) -> None:
    """Find the cheapest fleet that keeps objectives: GPU, replicas and settings, with proof on fresh seeds."""
    from fluidgate.runs.size import size

    pages = [html] if html is not None else output.files("size.html")
    made = output.files("size.json", PLAN, MANIFEST)
    o.try_outputs(*made, *pages, running.results, folders=[output.output_dir])
    slo, promised = o.promises(goodput, objectives)
    source = traffic.source()
    hours = day.load(source, traffic.growth)
    if hours is not None and traffic.rate is not None:
        raise InputError("--day has the rates: leave --rate out")
    source = day.busiest(source)
    with running.runner("sizing") as runner:
        sizing = size(
            source,
            machines.load(),
            promised,
            rate=traffic.rate if hours is None else hours.peak,
            growth=traffic.growth if hours is None else 1.0,
            slo=slo,
            max_gpus=machines.max_gpus,
            choices=searching.choices(),
            config=engine.load(),
            **({} if traffic.requests is None else {"requests": traffic.requests}),
            alpha=searching.alpha,
            replications=searching.replications,
            seed=traffic.seed,
            policy_file=policy_file,
            runner=runner,
        )
        fleet = None
        if hours is not None and sizing.answer is not None:
            fleet = day.fleet(hours, sizing, source, slo, policy_file, runner)
    _write(sizing, fleet, machines.served(), pages, output)


def _write(
    sizing: Sizing, fleet: HourlyFleet | None, served: ServedModel, pages: list[Path], output: o.OutputOptions
) -> None:
    """What was found: on the terminal, as JSON, and in files."""
    from fluidgate.report import write_size_report

    plan = None if sizing.answer is None else plan_file(sizing, served)
    serve = None if plan is None else serve_line(plan)
    document = sizing.to_dict(o.command_line()) | {"serve": serve, "day": fleet and fleet.to_dict()}
    if output.as_json:
        o.write_json(document)
    else:
        _print(sizing, plan, fleet, output)
    for path in output.files("size.json"):
        o.write_json(document, path)
    for path in pages:
        o.say(f"wrote {write_size_report(sizing, path, o.command_line(), serve)}")
    if plan is not None and output.output_dir is not None:
        write_files(sizing, plan, output.output_dir)


def _print(sizing: Sizing, plan: PlanFile | None, fleet: HourlyFleet | None, output: o.OutputOptions) -> None:
    from fluidgate.report import size_sentences, size_table, size_title

    out = output.console()
    out.print(size_title(sizing), style="bold", highlight=False)
    if sizing.options:
        out.print(size_table(sizing))
    out.print()
    out.print(*size_sentences(sizing), sep="\n", highlight=False)
    if plan is not None:
        print(f"On every replica: {serve_line(plan)}")  # as it is: a wrapped line could not be copied
        remark_own_name(plan.model.name or "MODEL", "there")
    if fleet is not None:
        out.print()
        out.print(day_table(fleet))
        out.print()
        out.print(fleet.words, highlight=False)
        out.print("Hours below the peak are sized by the search, without the proof.", highlight=False)
        if fleet.raised:
            rates = listed([number(rate) for rate in fleet.raised])
            out.print(f"At {rates} req/s fewer replicas held than at a lower rate; those of the lower are kept.")
        if output.output_dir is not None:
            print(f"To follow it: {scaling_line(sizing, fleet, output.output_dir / PLAN)}")


def _listed(text: str, kind: Callable[[str], T], option: str) -> list[T]:
    try:
        return [kind(part) for part in filter(None, (item.strip() for item in text.split(",")))]
    except ValueError:
        raise InputError(
            f"{option} {shown(text)}: give whole numbers with commas between them, such as 1,2,4"
        ) from None


def _prices(text: str | None, gpus: Sequence[str]) -> dict[str, float]:
    """Prices by GPU; one without a name is that of all."""
    from fluidgate.runs.prices import parse_prices

    prices = parse_prices(text)
    return (dict.fromkeys(gpus, prices.every) if prices.every is not None else {}) | dict(prices.named)
