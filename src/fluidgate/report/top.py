"""The top of the page, readable in ten seconds: per load what to use, why, the six numbers, a chart and the line."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.report.contradictions import contradictions
from fluidgate.report.deciding_chart import chosen_axis, deciding_chart
from fluidgate.report.deciding_table import deciding_table
from fluidgate.report.html import Html, tag
from fluidgate.report.recommend import recommend
from fluidgate.report.serving_lines import Deployment, deployment_at, first_line
from fluidgate.report.why import why
from fluidgate.report.words import load_title
from fluidgate.runs import Comparison


def answers(comparison: Comparison, deployments: Sequence[Deployment]) -> Html:
    """One card per load."""
    cards = [_card(comparison, place, deployments) for place in range(len(comparison.scenarios))]
    return tag("section", *cards, class_="answers", aria_label="Which policy to use")


def _card(comparison: Comparison, place: int, deployments: Sequence[Deployment]) -> Html:
    scenario = comparison.scenarios[place]
    choice = recommend(comparison, scenario)
    serve = deployment_at(comparison, place, deployments)
    jump = [tag("a", "vllm serve line", href=f"#use-{place}")] if serve.lines else []
    head = tag(
        "div",
        tag("h2", load_title(scenario)),
        tag("p", choice.headline, class_="answer"),
        *(tag("p", sentence, class_="bad") for sentence in contradictions(comparison, scenario)),
        tag("p", why(comparison, scenario, choice), " ", *jump),
        class_="why",
    )
    caption = tag("figcaption", chosen_axis(comparison, scenario))
    return tag(
        "article",
        head,
        deciding_table(comparison, scenario, choice),
        tag("figure", deciding_chart(comparison, scenario), caption),
        tag("div", first_line(serve, place), id=f"use-{place}", class_="use"),
        class_="card answer-card",
    )
