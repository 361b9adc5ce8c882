"""The Grafana dashboard asks for metrics that exist, and shows all of them."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="needs prometheus_client, which comes with vLLM")

from prometheus_client import REGISTRY

from fluidgate.serving.metrics import gate_metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "dashboards" / "fluidgate.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def exported() -> set[str]:
    gate_metrics()
    return {
        sample.name
        for family in REGISTRY.collect()
        if family.name.startswith("fluidgate_")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def asked_for() -> set[str]:
    return {name for query in QUERIES for name in re.findall(r"fluidgate_\w+", query)}


def test_every_query_names_metrics_that_exist() -> None:
    assert asked_for() <= exported()


def test_every_metric_is_shown() -> None:
    hidden = {"fluidgate_held_steps_total"}  # the held time says the same in seconds
    assert exported() - asked_for() == hidden


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)
