"""`fluidgate scaling-rules`: Prometheus rules and a KEDA ScaledObject that scale a fleet from a plan's boundary."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fluidgate.bounds import MAX_REPLICAS
from fluidgate.cli import options as o
from fluidgate.errors import InputError
from fluidgate.output import write_text

EXAMPLE = "Example: `fluidgate scaling-rules plan.json --load 0.6 --startup 180 --most 12`"

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file, from `fluidgate plan --save`.")]
Load = Annotated[
    float | None,
    typer.Option("--load", help="Share of the boundary that a replica is given: the load at which your promise holds."),
]
ReplicaRate = Annotated[
    float | None, typer.Option("--replica-rate", help="Requests per second that a replica is given, instead of --load.")
]
Startup = Annotated[float, typer.Option("--startup", help="Seconds until a new replica takes requests.")]
Least = Annotated[int, typer.Option("--least", help="Fewest replicas.", min=1, max=MAX_REPLICAS)]
Most = Annotated[int, typer.Option("--most", help="Most replicas.", min=1, max=MAX_REPLICAS)]
ModelName = Annotated[
    str | None, typer.Option("--model-name", help="The model as servers name it, if not as in the plan.")
]
Deployment = Annotated[str, typer.Option("--deployment", help="Kubernetes deployment of the servers.")]
Arrivals = Annotated[
    str | None,
    typer.Option("--arrivals", help="PromQL for requests per second by model_name, where a gateway counts them."),
]
Rules = Annotated[Path, typer.Option("--rules", help="Write the Prometheus rules to this file.")]
ScaledObject = Annotated[Path, typer.Option("--scaled-object", help="Write the ScaledObject to this file.")]


def command(
    plan_path: PlanPath,
    load: Load = None,
    replica_rate: ReplicaRate = None,
    startup_s: Startup = 180.0,
    least: Least = 1,
    most: Most = 16,
    model_name: ModelName = None,
    deployment: Deployment = "vllm-fluidgate",
    arrivals: Arrivals = None,
    rules: Rules = Path("scaling-rules.yaml"),
    scaled: ScaledObject = Path("scaled-object.yaml"),
) -> None:
    """Write Prometheus rules and a KEDA ScaledObject that start a replica before the boundary is crossed."""
    from fluidgate.runs.scaling import Boundary, Limits
    from fluidgate.serving.planfile import PlanFile
    from fluidgate.serving.scaling_rules import Target, recording_rules, scaled_object

    plan = PlanFile.load(plan_path)
    model = model_name or plan.model.name
    if model is None:
        raise InputError(f"{plan_path} names no model; add --model-name, as servers have it in the label model_name")
    rate = _replica_rate(plan.planned.boundary_rate, load, replica_rate)
    arrivals = arrivals and " ".join(arrivals.split())  # it stands in a comment, too
    target = Target(Boundary(rate, startup_s), model, Limits(least, most), deployment, arrivals)
    o.try_outputs(rules, scaled)
    given = {"--load": load, "--replica-rate": replica_rate, "--model-name": model_name, "--arrivals": arrivals}
    given |= {"--deployment": None if deployment == "vllm-fluidgate" else deployment}
    words = [str(plan_path), *(w for name, value in given.items() if value is not None for w in (name, f"{value}"))]
    words += ["--startup", f"{startup_s:g}", "--least", str(least), "--most", str(most)]
    line = f"fluidgate scaling-rules {shlex.join(words)}"
    write_text(rules, recording_rules(target, line))
    write_text(scaled, scaled_object(target, line))
    o.say(f"wrote {rules}, {scaled}: {rate:.3g} req/s a replica, {startup_s:g} s ahead")


def _replica_rate(boundary_rate: float, load: float | None, replica_rate: float | None) -> float:
    if (load is None) == (replica_rate is None):
        raise InputError(
            "say what a replica is given: --load, the share of the boundary at which your promise holds, or "
            "--replica-rate, the rate that `fluidgate size` proved ÷ its replicas"
        )
    if load is None:
        assert replica_rate is not None
        return replica_rate
    if not 0.0 < load <= 1.0:
        raise InputError(f"--load {load:g}: a share of the boundary lies above 0 and is at most 1")
    return load * boundary_rate
