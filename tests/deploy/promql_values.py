"""What PromQL expressions are worth on given samples: what the scaling rules use, as in Prometheus 3.

Sources: promql/functions.go (extrapolatedRate, linearRegression) and the documentation of operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import promql_parser as promql

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Samples = dict[Labels, tuple[list[float], list[float]]]
"""Times and values by labels, without the name."""

LOOK_BACK_S = 300.0


def value(expr: promql.Expr, series: Mapping[str, Samples], now_s: float) -> Vector | float:
    """An instant vector by labels without the name, or a scalar."""
    match expr:
        case promql.NumberLiteral():
            return float(expr.val)
        case promql.ParenExpr():
            return value(expr.expr, series, now_s)
        case promql.VectorSelector():
            found = within(expr, series, now_s, LOOK_BACK_S)
            return {labels: values[-1] for labels, (_, values) in found.items()}
        case promql.AggregateExpr():
            return aggregated(expr, series, now_s)
        case promql.Call():
            return called(expr, series, now_s)
        case promql.BinaryExpr():
            return combined(expr, value(expr.lhs, series, now_s), value(expr.rhs, series, now_s))
    raise AssertionError(f"{expr.prettify()}?")


def within(selector: promql.VectorSelector, series: Mapping[str, Samples], now_s: float, range_s: float) -> Samples:
    """The samples of a range that is open on the left."""
    wanted = {(matcher.name, matcher.value) for matcher in selector.matchers.matchers}
    found: Samples = {}
    for labels, (times, values) in series.get(selector.name, {}).items():
        inside = [k for k, time_s in enumerate(times) if now_s - range_s < time_s <= now_s]
        if wanted <= labels and inside:
            found[labels] = [times[k] for k in inside], [values[k] for k in inside]
    return found


def aggregated(expr: promql.AggregateExpr, series: Mapping[str, Samples], now_s: float) -> Vector:
    inner, by = value(expr.expr, series, now_s), set(expr.modifier.labels)
    assert isinstance(inner, dict)
    groups: dict[Labels, list[float]] = {}
    for labels, number in inner.items():
        groups.setdefault(frozenset(pair for pair in labels if pair[0] in by), []).append(number)
    return {labels: {"sum": sum(part), "count": float(len(part))}[str(expr.op)] for labels, part in groups.items()}


def called(expr: promql.Call, series: Mapping[str, Samples], now_s: float) -> Vector | float:
    name, first = expr.func.name, expr.args[0]
    if name == "vector":
        return {frozenset(): float(first.val)}
    if name == "clamp_min":
        inner, least = value(first, series, now_s), expr.args[1].val
        assert isinstance(inner, dict)
        return {labels: max(number, least) for labels, number in inner.items()}
    range_s = first.range.total_seconds()
    found = within(first.vector_selector, series, now_s, range_s)
    if name == "count_over_time":
        return {labels: float(len(times)) for labels, (times, _) in found.items()}
    found = {labels: samples for labels, samples in found.items() if len(samples[0]) > 1}
    if name in ("rate", "delta"):
        made = {labels: extrapolated(*s, now_s, range_s, name == "rate") for labels, s in found.items()}
        return {labels: number / (range_s if name == "rate" else 1.0) for labels, number in made.items()}
    ahead_s = expr.args[1].val if name == "predict_linear" else 0.0
    lines = {labels: np.polyfit(np.array(times) - now_s, values, 1) for labels, (times, values) in found.items()}
    return {labels: float(line[0] if name == "deriv" else np.polyval(line, ahead_s)) for labels, line in lines.items()}


def extrapolated(times: list[float], values: list[float], now_s: float, range_s: float, is_counter: bool) -> float:
    """The increase over a range; a counter does not begin below zero. No counter here is ever reset."""
    sampled_s, increase = times[-1] - times[0], values[-1] - values[0]
    apart_s = sampled_s / (len(times) - 1)
    start_s, end_s = times[0] - (now_s - range_s), now_s - times[-1]
    start_s = apart_s / 2 if start_s >= 1.1 * apart_s else start_s
    end_s = apart_s / 2 if end_s >= 1.1 * apart_s else end_s
    if is_counter and increase > 0:
        start_s = min(start_s, sampled_s * values[0] / increase)
    return increase * (sampled_s + start_s + end_s) / sampled_s


def combined(expr: promql.BinaryExpr, left: Vector | float, right: Vector | float) -> Vector:
    operators: dict[str, Callable[[float, float], float]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    operator = str(expr.op)
    assert isinstance(left, dict)
    pairs = [(labels, a, right if isinstance(right, float) else right.get(labels)) for labels, a in left.items()]
    if operator == "or":
        assert isinstance(right, dict)
        return right | left
    keeps: dict[str, Callable[[float, float], bool]] = {
        "and": lambda a, b: True,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
        ">=": lambda a, b: a >= b,
    }
    if operator in keeps:
        return {labels: a for labels, a, b in pairs if b is not None and keeps[operator](a, b)}
    return {labels: operators[operator](a, b) for labels, a, b in pairs if b is not None}
