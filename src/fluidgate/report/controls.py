"""What a reader may choose: the load, the policies, a metric. Shown by the script, which alone can act on it."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.report.charts import marker
from fluidgate.report.html import Html, tag
from fluidgate.report.over_repeats import policies
from fluidgate.runs import Comparison
from fluidgate.words import percent


def controls(comparison: Comparison) -> Html:
    """The form that stays on the screen: loads and policies."""
    loads = [(str(k), percent(scenario.load)) for k, scenario in enumerate(comparison.scenarios)]
    boxes = []
    for place, name in enumerate(policies(comparison)):
        swatch = tag("svg", marker(place, 8, 8), viewBox="0 0 16 16", aria_hidden="true")
        box = tag("input", type="checkbox", name="policy", value=str(place), checked="")
        boxes.append(tag("label", box, swatch, name))
    parts = [tag("div", tag("span", "Policies", class_="soft"), *boxes, role="group", aria_label="Policies")]
    if len(loads) > 1:
        parts.insert(0, choice("load", "Load", loads))
    return tag("form", *parts, id="controls", class_="controls needs-script", hidden="")


def choice(name: str, title: str, options: Sequence[tuple[str, str]]) -> Html:
    """One of several values, or all."""
    buttons = [
        tag("label", tag("input", type="radio", name=name, value=value, checked="" if value == "all" else None), words)
        for value, words in (("all", "all"), *options)
    ]
    return tag("div", tag("span", title, class_="soft"), *buttons, role="radiogroup", aria_label=title)
