"""The examples of `deploy/` as data, and what their PromQL asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def load(name: str) -> Any:
    """A file of `deploy/` that holds one document."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


COMPOSE = load("compose.yaml")
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
KUSTOMIZATION = load("kustomization.yaml")
RULES = [rule for group in load("prometheus-rules.yaml")["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
DASHBOARD = json.loads((ROOT / "dashboards" / "fluidgate.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def parsed(query: str) -> promql.Expr:
    """The syntax tree of a query, with a window where Grafana would fill one in."""
    return promql.parse(query.replace("$__rate_interval", "1m"))


def selectors(query: str) -> list[promql.VectorSelector]:
    """What a query reads."""
    found: list[promql.VectorSelector] = []

    def visit(expr: promql.Expr) -> bool:
        if isinstance(expr, promql.MatrixSelector):
            found.append(expr.vector_selector)
        elif isinstance(expr, promql.VectorSelector):
            found.append(expr)
        return True

    promql.walk(parsed(query), visit)
    return found


def bounds(query: str) -> Iterator[float]:
    """The numbers that a query compares with."""
    found: list[float] = []

    def visit(expr: promql.Expr) -> bool:
        if isinstance(expr, promql.BinaryExpr) and isinstance(expr.rhs, promql.NumberLiteral):
            found.append(expr.rhs.val)
        return True

    promql.walk(parsed(query), visit)
    yield from found


def labels(expr: promql.Expr) -> set[str]:
    """The labels that the series of a rule's expression have."""
    match expr:
        case promql.AggregateExpr():
            return set(expr.modifier.labels)
        case promql.BinaryExpr():
            return labels(expr.lhs)
        case promql.VectorSelector() if expr.name in RECORDS:
            return labels(parsed(RECORDS[expr.name]))
        case promql.VectorSelector():
            return {"instance", "job"}  # of every target
        case promql.Call() if expr.func.name == "histogram_quantile":
            return labels(expr.args[1]) - {"le"}
    raise AssertionError(f"labels of {expr.prettify()}?")
