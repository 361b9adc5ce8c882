"""The scaling rules and the ScaledObject: valid, as the command writes them, and asking for what the rule asks for."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import promql_parser as promql
import pytest
import yaml
from typer.testing import CliRunner

from fluidgate.cli import command_line
from fluidgate.engine import Elastic, ElasticRecords, Rule, run_elastic
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.runs.scaling import Autoscaler, Boundary, Limits
from fluidgate.serving.scaling_rules import ASKED, READY, REPLICA_RATE, UNTIL, Target, expressions, recording_rules
from fluidgate.vllm_metrics.names import FINISHED, RUNNING, WAITING
from fluidgate.workload import Workload

from .files import DEPLOY, KUBERNETES, load
from .promql_values import Samples, value
from .test_prometheus import PROMTOOL, of_vllm

RULES = load("scaling-rules.yaml")["groups"][0]["rules"]
SCALED = load("scaled-object.yaml")
EXPRESSIONS = {rule.get("record") or rule["alert"]: rule["expr"] for rule in RULES}

MODEL = "m"
TARGET = Target(Boundary(5.0, 180.0), MODEL)
CHIP = Hardware("chip", StepTime(c0=0.05, c_tok=1e-3), num_gpu_blocks=1001, block_size=16)

# The fields that KEDA documents (reference/scaledobject-spec and scalers/prometheus) and that we write; nothing else.
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TRIGGER = closed(
    ("type", "metadata"),
    type={"const": "prometheus"},
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=closed(
        ("serverAddress", "query", "threshold"),
        serverAddress=TEXT,
        query=TEXT,
        threshold={"type": "string", "pattern": "^[0-9.]+$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
)
SCALED_OBJECT = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=closed(("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    spec=closed(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=closed(("name",), name=TEXT),
        pollingInterval=COUNT,
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=closed(("failureThreshold", "replicas"), failureThreshold=COUNT, replicas=COUNT),
        advanced=closed(
            horizontalPodAutoscalerConfig=closed(
                behavior=closed(scaleDown=closed(stabilizationWindowSeconds={"type": "integer", "maximum": 3600}))
            )
        ),
        triggers={"type": "array", "items": TRIGGER, "minItems": 1},
    ),
)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_rules_parse_and_read_what_is_there(name: str) -> None:
    """Each reads vLLM's own metrics, or what a rule before it has recorded."""
    before = set(list(EXPRESSIONS)[: list(EXPRESSIONS).index(name)])
    found = set(re.findall(r"[a-z]+:[a-z_:]+", EXPRESSIONS[name]))
    promql.parse(EXPRESSIONS[name])
    assert found <= before | of_vllm()
    assert found or name == REPLICA_RATE


def test_the_scaled_object_has_the_fields_that_keda_knows() -> None:
    jsonschema.validate(SCALED, SCALED_OBJECT)
    (trigger,) = SCALED["spec"]["triggers"]
    query = promql.parse(trigger["metadata"]["query"])
    assert isinstance(query, promql.VectorSelector)
    assert query.name == ASKED
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SCALED | {"specs": {}}, SCALED_OBJECT)


def test_it_scales_the_example_deployment() -> None:
    deployment, spec = KUBERNETES[0], SCALED["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    served = deployment["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert all(f'model_name="{served}"' in rule["expr"] or rule["labels"] for rule in RULES)
    assert (
        Limits().stabilise_s
        == spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    )


def test_the_examples_are_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in their headers, on the plan of docs/scaling.md."""
    monkeypatch.chdir(tmp_path)
    made = (DEPLOY / "scaling-rules.yaml").read_text(encoding="utf-8")
    words = shlex.split(re.findall("# Made by: fluidgate (.*)", made)[0])
    planned = "plan --preset azure-conv-2023 --rate 30 --model meta-llama/Llama-3.1-8B --gpu h100-80gb --save plan.json"
    for arguments in (planned.split(), words):
        done = CliRunner().invoke(command_line(arguments), arguments)
        assert done.exit_code == 0, done.output
    for name in ("scaling-rules.yaml", "scaled-object.yaml"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (DEPLOY / name).read_text(encoding="utf-8")


def served(rate_at_end: float, seconds: float, rule: Rule, first: int) -> ElasticRecords:
    """A rate that rises from 2 req/s, on a fleet."""
    draw = np.random.default_rng(1)
    n = round((2.0 + rate_at_end) / 2 * seconds)
    due = np.sort(draw.random(n)) * n
    slope = (rate_at_end - 2.0) / seconds
    arrival_s = (np.sqrt(4.0 + 2.0 * slope * due) - 2.0) / slope
    load = Workload(arrival_s, draw.integers(10, 60, n), draw.integers(5, 40, n))
    return run_elastic(load, CHIP, Greedy(), Elastic(first, 8), rule)


def scraped(records: ElasticRecords) -> dict[str, Samples]:
    """vLLM's metrics of every replica from its start on, at each look."""
    series: dict[str, Samples] = {name: {} for name in (FINISHED, RUNNING, WAITING)}
    for seen in records.seen:
        for life in records.lives:
            if life.ready_s > seen.time_s:
                continue
            mine = (records.replica == life.slot) & (records.arrival_s < seen.time_s)
            done, begun = (times[mine] <= seen.time_s for times in (records.last_token_s, records.first_scheduled_s))
            numbers = {FINISHED: done.sum(), RUNNING: (begun & ~done).sum(), WAITING: (~begun).sum()}
            for name, number in numbers.items():
                labels = frozenset({("model_name", MODEL), ("instance", str(life.slot))})
                times, values = series[name].setdefault(labels, ([], []))
                times.append(seen.time_s)
                values.append(float(number))
    return series


def recorded(records: ElasticRecords, target: Target) -> dict[str, list[float | None]]:
    """What the rules record at each look, None where nothing."""
    series = scraped(records)
    of_model = frozenset({("model_name", target.model)})
    made: dict[str, list[float | None]] = {name: [] for name in expressions(target)}
    for seen in records.seen:
        series.setdefault(REPLICA_RATE, {})[of_model] = [seen.time_s], [target.rule.replica_rate]
        for name, expression in expressions(target).items():
            found = value(promql.parse(expression), series, seen.time_s)
            assert isinstance(found, dict)
            made[name].append(found.get(of_model))
            if of_model in found:
                times, values = series.setdefault(name, {}).setdefault(of_model, ([], []))
                times.append(seen.time_s)
                values.append(found[of_model])
    return made


def test_the_rules_ask_for_what_the_simulated_rule_asks_for() -> None:
    """To rounding, on a fleet that does not change, once no counter begins within a window."""
    records = served(14.0, 1500.0, lambda seen: seen.asked, 3)
    made, rule = recorded(records, TARGET), TARGET.rule
    warm = range(round((rule.trend_s + rule.window_s) / 15.0) + 2, len(records.seen))
    assert len(warm) > 40
    for k in warm:
        seen = records.seen[: k + 1]
        assert made[ASKED][k] == pytest.approx(rule.asked(seen).replicas, rel=1e-9)
        assert made[READY][k] == 3
        until_s = rule.seconds_until_crossed(seen)
        assert (made[UNTIL][k] is None) == (until_s == np.inf)
        if made[UNTIL][k] is not None:
            assert made[UNTIL][k] == pytest.approx(until_s, rel=1e-6, abs=1e-3)


def test_they_nearly_do_where_the_fleet_changes() -> None:
    """PromQL extrapolates the series of new replicas by half a scrape. After the minutes in which all of them begin."""
    records = served(24.0, 1500.0, Autoscaler(TARGET.rule, Limits(most=8)), 1)
    made = recorded(records, TARGET)
    assert len(records.lives) > 4
    asked = [TARGET.rule.asked(records.seen[: k + 1]).replicas for k in range(len(records.seen))]
    for k in range(50, len(asked)):
        assert made[ASKED][k] == pytest.approx(asked[k], rel=0.1)


@pytest.mark.parametrize(
    ("until_s", "asked", "fires"),
    [(100.0, 2.5, 100.0), (-30.0, 4.0, 0.0), (None, 3.5, 0.0), (None, 2.5, None), (181.0, 3.0, None)],
)
def test_the_alert_tells_in_how_many_seconds(until_s: float | None, asked: float, fires: float | None) -> None:
    """On three replicas; the line may not rise, or not be there yet, when more arrives than they hold."""
    (alert,) = (r for r in yaml.safe_load(recording_rules(TARGET, "x"))["groups"][0]["rules"] if "alert" in r)
    of_model = frozenset({("model_name", MODEL)})
    numbers = {UNTIL: until_s, ASKED: asked, READY: 3.0}
    series = {name: {of_model: ([15.0], [number])} for name, number in numbers.items() if number is not None}
    found = value(promql.parse(alert["expr"]), series, 15.0)
    assert found == ({} if fires is None else {of_model: fires})


def test_a_model_with_quotes_in_its_name_stays_in_its_quotes() -> None:
    target = Target(TARGET.rule, 'o\'neil "x"')
    rules = yaml.safe_load(recording_rules(target, "x"))["groups"][0]["rules"]
    assert rules[0]["labels"]["model_name"] == target.model
    for rule in rules:
        promql.parse(rule["expr"])


@pytest.mark.parametrize(
    "wrong", [{"rule": Boundary(1.0, 180.5)}, {"rule": Boundary(1.0, window_s=20.0)}, {"deployment": "a\nb"}]
)
def test_targets_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Target(**{"rule": Boundary(1.0), "model": "m"} | wrong)


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", str(DEPLOY / "scaling-rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_itself_asks_for_what_the_simulated_rule_asks_for(tmp_path: Path) -> None:
    """Within 10%: before version 3 its windows are closed on the left, so that they hold one scrape more."""
    records = served(24.0, 1500.0, Autoscaler(TARGET.rule, Limits(most=8)), 1)
    (tmp_path / "rules.yaml").write_text(recording_rules(TARGET, "test"), encoding="utf-8")
    wanted = {k: TARGET.rule.asked(records.seen[: k + 1]).replicas for k in range(50, len(records.seen), 8)}
    tests = [
        {
            "expr": f"abs({ASKED} / {asked} - 1) < bool 0.1",
            "eval_time": f"{15 * (k + 1)}s",
            "exp_samples": [{"labels": f'{{model_name="{MODEL}"}}', "value": 1}],
        }
        for k, asked in wanted.items()
    ]
    case = {"interval": "15s", "input_series": series_of(records), "promql_expr_test": tests}
    cases = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [case]}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases), encoding="utf-8")
    done = promtool("test", "rules", str(tmp_path / "cases.yaml"))
    assert len(wanted) > 5
    assert done.returncode == 0, done.stdout + done.stderr


def series_of(records: ElasticRecords) -> list[dict[str, str]]:
    """What was scraped, as promtool takes it: a value every 15 s from 0 s on, `_` where there is none."""
    made = []
    for name, samples in scraped(records).items():
        for labels, (times, values) in samples.items():
            by_look = dict(zip((round(time_s / 15.0) for time_s in times), values, strict=True))
            line = " ".join(f"{by_look[k]:.0f}" if k in by_look else "_" for k in range(max(by_look) + 1))
            pairs = ",".join(f'{key}="{text}"' for key, text in sorted(labels))
            made.append({"series": f"{name}{{{pairs}}}", "values": line})
    return made


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
