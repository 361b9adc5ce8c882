"""Prometheus recording rules and a KEDA ScaledObject that scale a vLLM deployment as the rule `Boundary` does.

The rules compute what `Boundary.asked` computes, from what vLLM publishes. It counts no arrivals: those of a window are
the requests that finished within it and those by which the ones in its servers became more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from fluidgate.bounds import check_name, check_whole
from fluidgate.errors import InputError
from fluidgate.runs.scaling import Boundary, Limits
from fluidgate.vllm_metrics.names import FINISHED, RUNNING, WAITING

RATE, AHEAD = "model:vllm_requests_arriving:rate", "model:vllm_requests_arriving:ahead"
REPLICA_RATE = "model:fluidgate_replica_rate:planned"
READY, ASKED = "model:fluidgate_replicas:ready", "model:fluidgate_replicas:asked"
UNTIL = "model:fluidgate_boundary_seconds:until_crossed"
"""Names of the records, all with the label `model_name` alone."""


@dataclass(frozen=True)
class Target:
    """What is scaled, and how.

    Attributes:
        model: as servers name it in the label `model_name`.
        deployment: of Kubernetes, to which the servers belong.
        arrivals: PromQL for requests per second with the label `model_name` alone, where a gateway counts them; None:
            from vLLM's own metrics.
        prometheus: its address inside the cluster.
        interval_s: between two evaluations, whole seconds.
    """

    rule: Boundary
    model: str
    limits: Limits = field(default_factory=Limits)
    deployment: str = "vllm-fluidgate"
    arrivals: str | None = None
    prometheus: str = "http://prometheus-server.monitoring.svc:80"
    interval_s: int = 15

    def __post_init__(self) -> None:
        for what in ("model", "deployment", "prometheus"):
            check_name(what, getattr(self, what))
        check_whole("interval_s", self.interval_s, 1, 3600)
        for what in ("lead_s", "window_s", "trend_s"):
            if getattr(self.rule, what) % 1:
                raise InputError(f"{what} = {getattr(self.rule, what)}: PromQL takes whole seconds here; round it")
        if self.rule.window_s < 2 * self.interval_s or self.rule.trend_s < 2 * self.interval_s:
            raise InputError(f"a rate needs two values, and there is one in {self.interval_s} s; take longer windows")


def expressions(target: Target) -> dict[str, str]:
    """PromQL by the name of its record, in order of evaluation: each may read those before it."""
    rule, of_model = target.rule, _of(target)
    window, trend = f"[{rule.window_s:.0f}s]", f"[{rule.trend_s:.0f}s]"
    enough = f"count_over_time({RATE}{of_model}{trend}) >= {rule.trend_s / 2 / target.interval_s + 1:g}"
    rate = RATE + of_model
    finished, running, waiting = (f"{name}{of_model}{window}" for name in (FINISHED, RUNNING, WAITING))
    arriving = (
        f"clamp_min(\n"
        f"  sum by (model_name) (rate({finished}))\n"
        f"    + sum by (model_name) (delta({running})) / {rule.window_s:.0f}\n"
        f"    + sum by (model_name) (delta({waiting})) / {rule.window_s:.0f},\n"
        f"  0\n)"
    )
    return {
        RATE: target.arrivals or arriving,
        AHEAD: f"predict_linear({rate}{trend}, {rule.lead_s:.0f})\n  and {enough}",
        ASKED: (f"(\n  {AHEAD}{of_model} > {rate}\n    or {rate}\n)\n  / on (model_name) {REPLICA_RATE}{of_model}"),
        READY: f"count by (model_name) (sum by (model_name, instance) ({RUNNING}{of_model}))",
        UNTIL: (
            f"(\n  {READY}{of_model} * on (model_name) {REPLICA_RATE}{of_model}\n"
            f"    - predict_linear({rate}{trend}, 0)\n)\n  / (deriv({rate}{trend}) > 0)\n"
            f"  and {enough}"
        ),
    }


def recording_rules(target: Target, command: str) -> str:
    """A file of Prometheus rules, and an alert for who scales by hand; `command` is what made it."""
    lead_s = f"{target.rule.lead_s:.0f}"
    lines = [
        "# Arrivals against the stability boundary. What each record means: docs/scaling.md.",
        f"# Made by: {command}",
        "groups:",
        "  - name: fluidgate-scaling",
        f"    interval: {target.interval_s}s",
        "    rules:",
        "      # Requests per second that a replica is to be given: a share of its stability boundary.",
        f"      - record: {REPLICA_RATE}",
        f"        expr: vector({target.rule.replica_rate:.12g})",
        "        labels:",
        f"          model_name: {_quoted(target.model)}",
    ]
    for name, expression in expressions(target).items():
        lines += [
            f"      - record: {name}",
            "        expr: |",
            *(f"          {line}" for line in expression.split("\n")),
        ]
    lines += [
        "      # KEDA acts on the records by itself; this tells who scales by hand.",
        "      - alert: FluidgateBoundaryAhead",
        "        expr: |",
        f"          clamp_min({UNTIL}{_of(target)}, 0) < {lead_s}",
        f"            or ({ASKED}{_of(target)} > {READY}{_of(target)}) * 0",  # crossed already: in 0 s
        "        labels:",
        "          severity: warning",
        "        annotations:",
        "          summary: >-",
        "            {{ $labels.model_name }}: in {{ $value | humanizeDuration }} more arrives than its replicas hold.",
        "          description: >-",
        f"            A replica takes {lead_s} s to start. Start as many as {ASKED} says, rounded up.",
    ]
    return "\n".join(lines) + "\n"


def scaled_object(target: Target, command: str) -> str:
    """A KEDA ScaledObject that keeps the deployment at the number of replicas that the records ask for."""
    limits = target.limits
    query = ASKED + _of(target)
    return f"""\
# Keeps as many replicas as the rules of scaling-rules.yaml ask for. Needs KEDA 2.13 or newer, and Prometheus with them.
# Made by: {command}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {_quoted(target.deployment)}
spec:
  scaleTargetRef:
    name: {_quoted(target.deployment)}
  pollingInterval: {target.interval_s}
  minReplicaCount: {limits.least}
  maxReplicaCount: {limits.most}
  fallback: # where Prometheus does not answer
    failureThreshold: 4
    replicas: {limits.most}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: {limits.stabilise_s:.0f}
  triggers:
    - type: prometheus
      metricType: AverageValue # ÷ 1, rounded up: the number of replicas
      metadata:
        serverAddress: {_quoted(target.prometheus)}
        query: {_quoted(query)}
        threshold: "1"
        ignoreNullValues: "false"
"""


def _of(target: Target) -> str:
    """The selector of a model's series."""
    return f"{{model_name={json.dumps(target.model, ensure_ascii=False)}}}"


def _quoted(text: str) -> str:
    """As YAML has a text on one line."""
    return "'" + text.replace("'", "''") + "'"
