"""How to serve with the recommended policy: the lines for vLLM, at the top of the page and in their own section."""

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
        title: what the line sets up.
        command: the command line.
        flags: name, value and reason of each argument.
        note: what it needs besides; it may be markup.
    """

    title: str
    command: str
    flags: tuple[tuple[str, str, str], ...]
    note: str = ""


@dataclass(frozen=True)
class Deployment:
    """How to serve at one load.

    Attributes:
        note: why there is no line; it may be markup.
        first: the place of the line to show first.
    """

    lines: tuple[ServeLine, ...] = ()
    note: str = ""
    first: int = 0


def deployment(comparison: Comparison, deployments: Sequence[Deployment]) -> Html:
    """The `vllm serve` lines for every load; without deployments, how to get them."""
    parts = []
    for place, scenario in enumerate(comparison.scenarios):
        serve = deployment_at(comparison, place, deployments)
        note = [tag("p", serve.note)] if serve.note else []
        blocks = [
            tag("h3", load_title(scenario)),
            *note,
            *(_serve_line(line, f"line-{place}-{k}") for k, line in enumerate(serve.lines)),
        ]
        parts.append(tag("div", *blocks, data_load=str(place)))
    return join(parts)


def deployment_at(comparison: Comparison, place: int, deployments: Sequence[Deployment]) -> Deployment:
    """The one given for the load in that place; without any, how to get the lines."""
    if deployments:
        return deployments[place]
    return Deployment(note=how_to_serve(recommend(comparison, comparison.scenarios[place]).policy))


def first_line(serve: Deployment, place: int) -> Html:
    """The line to show first, for the top of the page, or why there is none."""
    if not serve.lines:
        return tag("p", serve.note, class_="soft")
    line = serve.lines[serve.first]
    title = tag("p", tag("strong", line.title.partition(" (")[0]))
    return join([title, command(line.command, f"serve-{place}"), *_note(line)])


def _note(line: ServeLine) -> list[Html]:
    return [tag("p", line.note, class_="soft")] if line.note else []


def command(text: str, anchor: str) -> Html:
    """A command line with a button that copies it; without the script, without the button."""
    button = tag("button", "Copy", type="button", class_="needs-script", hidden="", data_copy=anchor)
    said = tag("span", class_="soft", role="status")
    code = tag("pre", tag("code", text, id=anchor), tabindex="0", aria_label="Command line")
    return tag("div", code, tag("div", button, said), class_="command")


def how_to_serve(policy: str) -> str:
    """The commands that print the lines, as markup."""
    save = tag("code", f"fluidgate plan … --policy {policy} --save plan.json")
    serve = tag("code", "fluidgate serve-args plan.json")
    return join(["Write the plan file with ", save, " at this load's rate; ", serve, " then prints the lines."])


def _serve_line(line: ServeLine, anchor: str) -> Html:
    rows = [tag("tr", *(tag("td", text, class_="text") for text in flag)) for flag in line.flags]
    flags = tag("table", tag("caption", "Each argument and its reason"), tag("tbody", *rows))
    return tag(
        "div",
        tag("p", tag("strong", line.title)),
        command(line.command, anchor),
        *_note(line),
        tag("details", tag("summary", "Why each argument"), tag("div", flags, class_="scroll", tabindex="0")),
    )
