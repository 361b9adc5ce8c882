"""Rules and dashboard: PromQL that parses, metrics that are published, and the same bounds in both."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import REGISTRY

from fluidgate.policies import Fluid
from fluidgate.serving.metrics import gate_metrics
from fluidgate.vllm_metrics.exposition import parse

from .files import ALERTS, DASHBOARD, DEPLOY, QUERIES, RECORDS, ROOT, RULES, bounds, labels, load, parsed, selectors

SERVED = ROOT / "tests" / "doctor" / "data" / "busy_later.txt"
"""The page of a real server."""

PROMTOOL = shutil.which("promtool")


def of_the_gate() -> set[str]:
    gate_metrics()
    return {
        sample.name
        for family in REGISTRY.collect()
        if family.name.startswith("fluidgate_")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def of_vllm() -> set[str]:
    return {sample.name for sample in parse(SERVED.read_text(encoding="utf-8"), SERVED.name)}


@pytest.mark.parametrize("query", QUERIES)
def test_the_dashboard_reads_metrics_that_are_published(query: str) -> None:
    assert {found.name for found in selectors(query)} <= of_the_gate() | of_vllm()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_metrics_that_are_published(rule: dict[str, Any]) -> None:
    names = {found.name for found in selectors(rule["expr"])}
    assert names
    assert names <= of_the_gate() | of_vllm() | set(RECORDS) | {"up"}


def test_the_dashboard_shows_every_metric_of_the_gate() -> None:
    hidden = {"fluidgate_held_steps_total"}  # the held time says the same in seconds
    assert of_the_gate() - {found.name for query in QUERIES for found in selectors(query)} == hidden


def test_every_query_is_of_the_chosen_servers() -> None:
    """The gate's metrics name no model; the list of servers is already that of the chosen model."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert 'model_name=~"$model_name"' in variables["instance"]["query"]["query"]
    for query in QUERIES:
        for found in selectors(query):
            chosen = {(matcher.name, matcher.value) for matcher in found.matchers.matchers}
            assert ("instance", "$instance") in chosen, query
            assert (("model_name", "$model_name") in chosen) == found.name.startswith("vllm:"), query


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_records_are_named_by_level_metric_and_operation() -> None:
    for name, query in RECORDS.items():
        level, metric, operation = name.split(":")
        assert {"instance_model": {"instance", "model_name"}, "instance": {"instance"}}[level] == labels(parsed(query))
        assert metric.startswith(("fluidgate_", "vllm_"))
        assert operation


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_where_and_what_to_do(alert: dict[str, Any]) -> None:
    said = alert["annotations"]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    if "for" in alert:
        promql.parse_duration(alert["for"])
    assert set(said) == {"summary", "description"}
    named = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
    assert "instance" in named
    assert named <= labels(parsed(alert["expr"]))


def test_alerts_and_red_lines_agree() -> None:
    alerts = {alert["alert"]: next(bounds(alert["expr"]), None) for alert in ALERTS}
    red = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in DASHBOARD["panels"]
        if "thresholds" in panel["fieldConfig"]["defaults"]
    }
    assert red["Evictions per request"] == alerts["FluidgateEvictsMoreThanPlanned"] == Fluid().evicted_share
    assert red["Recompute tax"] == alerts["FluidgateRecomputeTaxHigh"]
    assert red["KV cache"] == alerts["VllmKvCacheFullWithQueue"]
    assert {"Time to first token", "Inter-token latency"} <= set(red)


def test_latency_panels_show_three_percentiles() -> None:
    by_title = {panel["title"]: panel for panel in DASHBOARD["panels"]}
    for title in ("Time to first token", "Inter-token latency"):
        found = [parsed(target["expr"]).args[0].val for target in by_title[title]["targets"]]
        assert found == [0.5, 0.9, 0.99]


def test_prometheus_loads_the_rules_from_where_compose_puts_them() -> None:
    (pattern,) = load("prometheus.yaml")["rule_files"]
    (mount,) = (m for m in load("compose.yaml")["services"]["prometheus"]["volumes"] if "prometheus-rules" in m)
    assert re.fullmatch(pattern.replace("*", "[^/]+"), mount.split(":")[1])


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_fires_the_alerts_that_it_should(tmp_path: Path) -> None:
    rules = load("prometheus-rules.yaml")
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("annotations", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    cases = shutil.copy(Path(__file__).with_name("alerts.yaml"), tmp_path)
    done = subprocess.run([str(PROMTOOL), "test", "rules", cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus")
@pytest.mark.parametrize("words", [("rules", "prometheus-rules.yaml"), ("config", "--syntax-only", "prometheus.yaml")])
def test_prometheus_takes_the_files(words: tuple[str, ...]) -> None:
    done = subprocess.run([str(PROMTOOL), "check", *words], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    cases = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {test["alertname"] for case in cases for test in case.get("alert_rule_test", ()) if test["exp_alerts"]}
    assert fired == {alert["alert"] for alert in ALERTS}
