"""What a comparison comes to, per load, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from fluidgate.runs import Comparison


def answers(comparison: Comparison) -> list[dict[str, Any]]:
    """What `print_answers` says, as JSON-ready values, one for each load."""
    from fluidgate.report import contradictions, recommend

    said = []
    for scenario in comparison.scenarios:
        choice = recommend(comparison, scenario)
        said.append(
            {
                "load": scenario.load,
                "policy": choice.policy,
                "headline": choice.headline,
                "reason": choice.reason,
                "others": [{"policy": policy, "says": why} for policy, why in choice.others],
                "contradictions": list(contradictions(comparison, scenario)),
            }
        )
    return said


def print_answers(out: Console, comparison: Comparison, *, reasons: bool = False) -> None:
    """Which policy to use; with `reasons`, also what contradicts the plan, why, and how the others stand."""
    from rich.text import Text

    from fluidgate.report import contradictions, load_title, recommend

    for scenario in comparison.scenarios:
        choice = recommend(comparison, scenario)
        for sentence in contradictions(comparison, scenario) if reasons else ():
            out.print(Text(sentence, style="red"))
        out.print(Text.assemble((f"{load_title(scenario)}: ", "bold"), (f"{choice.headline}.", "bold green")))
        if reasons:
            out.print(Text(choice.reason))
            for policy, why in choice.others:
                out.print(Text(f"- {policy}: {why}."))
            out.print()
