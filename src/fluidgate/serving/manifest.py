"""A Kubernetes manifest for the servers of a plan: a Deployment with so many replicas, and their Service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from fluidgate.serving.flags import PLAN_VARIABLE, Flag
from fluidgate.serving.planfile import PlanFile
from fluidgate.serving.versions import NEWEST

PLUGIN_IMAGE, STOCK_IMAGE = f"vllm-fluidgate:{NEWEST.tested}", f"vllm/vllm-openai:v{NEWEST.tested}"
"""The image of deploy/Dockerfile, and vLLM's own."""

DRAIN_S = 90
"""Seconds for what has begun, when a server is told to end."""

_VARIABLE = f"""\
            - name: {PLAN_VARIABLE}
              value: /etc/fluidgate/plan.json
"""
_MOUNT = """\
            - name: plan
              mountPath: /etc/fluidgate
              readOnly: true
"""
_VOLUME = """\
        - name: plan
          configMap:
            name: fluidgate-plan
"""


def kubernetes_manifest(
    model: str,
    flags: Sequence[Flag],
    *,
    replicas: int = 1,
    gpus: int = 1,
    plan: PlanFile | None = None,
    plan_path: str = "plan.json",
    head: str = "",
) -> str:
    """YAML for `kubectl apply -f`.

    Args:
        model: what `vllm serve` loads.
        flags: of `serve_flags`.
        gpus: of one replica.
        plan: for fluidgate's scheduler, which reads it from a ConfigMap in the manifest; None: stock vLLM.
        plan_path: where it is, for the comment.
        head: comment lines that come first.
    """
    words = [model, *(word for flag in flags for word in flag.arguments), "--shutdown-timeout", str(DRAIN_S)]
    config_map = "" if plan is None else _config_map(plan)
    return config_map + deployment(words, replicas, gpus, with_plan=plan is not None, plan_path=plan_path, head=head)


def deployment(
    words: Sequence[str], replicas: int, gpus: int, *, with_plan: bool, plan_path: str, head: str = ""
) -> str:
    """The Deployment and the Service; where there is a plan, in the ConfigMap `fluidgate-plan`."""
    template = files("fluidgate.serving").joinpath("kubernetes.yaml").read_text(encoding="utf-8")
    return Template(template).substitute(
        head=head,
        replicas=replicas,
        gpus=gpus,
        image=PLUGIN_IMAGE if with_plan else STOCK_IMAGE,
        plan_path=plan_path,
        args="\n".join(f"            - {_scalar(word)}" for word in words),
        plan_variable=_VARIABLE if with_plan else "",
        plan_mount=_MOUNT if with_plan else "",
        plan_volume=_VOLUME if with_plan else "",
    )


def _config_map(plan: PlanFile) -> str:
    text = "".join(f"    {line}\n" for line in plan.text.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: fluidgate-plan\ndata:\n  plan.json: |\n{text}---\n"


def _scalar(word: str) -> str:
    """A flag as it is; a value quoted as in JSON, which YAML contains, so that none is read as a number or a switch."""
    return word if word.startswith("--") else json.dumps(word)
