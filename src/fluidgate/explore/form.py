"""The page's controls: a slider or a choice for every setting, each with its label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log

from fluidgate.explore.settings import (
    BUDGETS,
    LEAST_FACTOR,
    LEAST_RATE,
    MOST_FACTOR,
    MOST_RATE,
    POLICIES,
    SEATS,
    TPS,
    Settings,
    gpus,
    models,
)
from fluidgate.report.html import Html, join, tag
from fluidgate.workload import PRESETS

STEPS = 1000
"""Positions of a slider on a logarithmic scale."""
OWN = "vLLM's own"


def form(start: Settings) -> Html:
    """All controls, standing as in `start`."""
    traffic = [
        _choice("preset", "Workload", PRESETS, start.preset),
        _slider("rate", "Rate, req/s", LEAST_RATE, MOST_RATE, start.rate),
        _slider("prompt_factor", "Prompt length ×", LEAST_FACTOR, MOST_FACTOR, start.prompt_factor),
        _slider("output_factor", "Output length ×", LEAST_FACTOR, MOST_FACTOR, start.output_factor),
    ]
    machine = [
        _choice("model", "Model", models(), start.model),
        _choice("gpu", "GPU", gpus(), start.gpu),
        _numbers("tp", "Tensor-parallel GPUs", TPS, start.tp),
        _price(start.price),
    ]
    engine = [
        _numbers("seats", "Seats (max_num_seqs)", (0, *SEATS), start.seats),
        _numbers("budget", "Tokens a step (max_num_batched_tokens)", (0, *BUDGETS), start.budget),
        _choice("policy", "Policy", POLICIES, start.policy),
    ]
    return join([_group("Traffic", traffic), _group("Machine", machine), _group("Engine", engine)])


def position(value: float, least: float, most: float) -> int:
    """Where a value stands on a logarithmic slider, from 0 to `STEPS`; page.js has the way back."""
    return round(STEPS * log(value / least) / log(most / least))


def _group(title: str, controls: Sequence[Html]) -> Html:
    return tag("fieldset", tag("legend", title), *controls)


def _slider(name: str, title: str, least: float, most: float, value: float) -> Html:
    """A slider, and a field that shows its value and takes any other."""
    slider = tag(
        "input",
        type="range",
        id=f"{name}-slider",
        min="0",
        max=str(STEPS),
        step="1",
        value=str(position(value, least, most)),
        data_for=name,
        data_least=f"{least:g}",
        data_most=f"{most:g}",
        aria_label=f"{title}, slider",
    )
    number = tag(
        "input",
        type="number",
        id=name,
        name=name,
        min=f"{least:g}",
        max=f"{most:g}",
        step="any",
        value=f"{value:.10g}",
        required="",
    )
    return tag("div", tag("label", title, for_=name), slider, number, class_="control")


def _choice(name: str, title: str, values: Iterable[str], chosen: str) -> Html:
    """One of several names; the chosen one is among them even if it is no usual one."""
    names = list(values)
    names = names if chosen in names else [chosen, *names]
    options = [_option(value, value, value == chosen) for value in names]
    return tag("div", tag("label", title, for_=name), tag("select", *options, id=name, name=name), class_="control")


def _numbers(name: str, title: str, values: Sequence[int], chosen: int) -> Html:
    """One of several whole numbers, of which 0 leaves it to vLLM."""
    options = [
        _option(str(value), f"{value:,}" if value else OWN, value == chosen) for value in sorted({*values, chosen})
    ]
    select = tag("select", *options, id=name, name=name, data_number="")
    return tag("div", tag("label", title, for_=name), select, class_="control")


def _option(value: str, text: str, chosen: bool) -> Html:
    return tag("option", text, value=value, selected="" if chosen else None)


def _price(price: float) -> Html:
    field = tag("input", type="number", id="price", name="price", min="0", step="any", value=f"{price:g}")
    return tag("div", tag("label", "Price of a GPU and hour (0: none)", for_="price"), field, class_="control")
