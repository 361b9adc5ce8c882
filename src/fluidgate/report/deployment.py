"""What to set in vLLM: the `vllm serve` lines of the policy to use, which the caller reckons and this page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fluidgate.report.html import Html, join, tag
from fluidgate.report.recommend import recommend
from fluidgate.report.words import load_title
from fluidgate.runs import Comparison


@dataclass(frozen=True)
class ServeLine:
    """One way to serve.

    Attributes:
        title: what it is.
        command: the line to type.
        flags: name, value and reason of each argument.
    """

    title: str
    command: str
    flags: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Deployment:
    """How to serve at one load; `note` says why there is no line, or what else to know, and may be markup."""

    lines: tuple[ServeLine, ...] = ()
    note: str = ""


def deployment(comparison: Comparison, deployments: Sequence[Deployment]) -> Html:
    """The lines of every load; without any, how to get them."""
    parts: list[Html] = []
    for place, scenario in enumerate(comparison.scenarios):
        own = (
            deployments[place] if deployments else Deployment(note=how_to_serve(recommend(comparison, scenario).policy))
        )
        shown = [tag("p", own.note)] if own.note else []
        blocks = [tag("h3", load_title(scenario)), *shown, *(_line(line) for line in own.lines)]
        parts.append(tag("div", *blocks, data_load=str(place)))
    return Html("".join(parts))


def how_to_serve(policy: str) -> str:
    """The commands that give the lines, as markup."""
    save = tag("code", f"fluidgate plan … --policy {policy} --save plan.json")
    serve = tag("code", "fluidgate serve-args plan.json")
    return join([f"The plan file of {policy}: ", save, ", with this load's rate; its lines: ", serve, "."])


def _line(line: ServeLine) -> Html:
    rows = [tag("tr", *(tag("td", word, class_="text") for word in flag)) for flag in line.flags]
    table = tag("table", tag("caption", "Each argument and its reason"), tag("tbody", *rows))
    return tag(
        "div",
        tag("p", tag("strong", line.title)),
        tag("pre", tag("code", line.command), tabindex="0"),
        tag("details", tag("summary", "Why each argument"), tag("div", table, class_="scroll", tabindex="0")),
    )
