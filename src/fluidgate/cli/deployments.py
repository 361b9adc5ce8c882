"""The `vllm serve` lines of a comparison, for its report: per load, those of the policy to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.report import Deployment
    from fluidgate.runs import Comparison, Scenario
    from fluidgate.serving.plan_sections import ServedModel

PLAN_PATH = "plan.json"


def deployments(comparison: Comparison, model: ServedModel) -> list[Deployment]:
    """One per load; what vLLM itself can run comes first, and what it cannot run at all has a note."""
    from fluidgate.report import Deployment

    lines = []
    for scenario in comparison.scenarios:
        try:
            lines.append(_deployment(comparison, scenario, model))
        except InputError as error:
            lines.append(Deployment(note=f"No line for vLLM: {error}."))
    return lines


def _deployment(comparison: Comparison, scenario: Scenario, model: ServedModel) -> Deployment:
    from fluidgate.policies import make_policy
    from fluidgate.report import Deployment, ServeLine, how_to_serve, recommend
    from fluidgate.serving.flags import is_stock, serve_command, serve_flags
    from fluidgate.serving.planfile import PlanFile

    spec = recommend(comparison, scenario).policy
    plan = PlanFile.of(scenario.plan, make_policy(spec, scenario.plan), comparison.config, model)
    stock = is_stock(plan)
    likeness = f"which has {plan.policy} itself" if stock else f"as near to {plan.policy} as its flags allow"
    lines = []
    for form, title, path, note in (
        ("plugin", f"With fluidgate's scheduler: {plan.policy_line()}", PLAN_PATH, how_to_serve(spec)),
        ("stock", f"Stock vLLM, {likeness}", None, ""),
    ):
        flags = serve_flags(plan, "plugin" if form == "plugin" else "stock")
        command = serve_command(flags, model.name or "MODEL", path)
        lines.append(ServeLine(title, command, tuple((flag.name, flag.value, flag.why) for flag in flags), note))
    return Deployment(tuple(lines), first=int(stock))
