"""What `fluidgate size --output-dir` writes beside the numbers: the plan, the server's line and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fluidgate.cli import options as o

if TYPE_CHECKING:
    from fluidgate.runs.size import Sizing
    from fluidgate.serving.flags import Flag
    from fluidgate.serving.plan_sections import ServedModel
    from fluidgate.serving.planfile import PlanFile

PLAN, MANIFEST = "plan.json", "kubernetes.yaml"


def plan_file(sizing: Sizing, model: ServedModel) -> PlanFile:
    """The plan of one replica of the answer."""
    from fluidgate.policies import make_policy
    from fluidgate.serving.planfile import PlanFile

    answer, plan = sizing.answer, sizing.plan
    assert answer is not None, "asked for only where a fleet holds"
    assert plan is not None, "made of every answer"
    config = answer.flags.engine(sizing.config).on(plan.hardware)
    of_replica = model.model_copy(update={"tensor_parallel_size": answer.machine.tp})
    return PlanFile.of(plan, make_policy(answer.flags.policy, plan), config, of_replica)


def serve_line(plan: PlanFile) -> str:
    """What to type on every replica: stock flags where they are the policy itself, else with fluidgate's scheduler."""
    from fluidgate.serving.flags import serve_command

    stock, flags = _flags(plan)
    return serve_command(flags, plan.model.name or "MODEL", None if stock else PLAN)


def write_files(sizing: Sizing, plan: PlanFile, folder: Path) -> None:
    """Plan file and Kubernetes manifest."""
    from fluidgate.output import write_text
    from fluidgate.serving.manifest import kubernetes_manifest

    answer = sizing.answer
    assert answer is not None, "asked for only where a fleet holds"
    stock, flags = _flags(plan)
    plan.save(folder / PLAN)
    manifest = kubernetes_manifest(
        plan.model.name or "MODEL",
        flags,
        replicas=answer.replicas,
        gpus=answer.machine.tp,
        plan=None if stock else plan,
        head=f"# {answer.label}, as `fluidgate size` found them: kubectl apply -f {MANIFEST}\n",
    )
    write_text(folder / MANIFEST, manifest)
    for name in (PLAN, MANIFEST):
        o.say(f"wrote {folder / name}")


def _flags(plan: PlanFile) -> tuple[bool, tuple[Flag, ...]]:
    from fluidgate.serving.flags import is_stock, serve_flags

    stock = is_stock(plan)
    return stock, serve_flags(plan, "stock" if stock else "plugin")
