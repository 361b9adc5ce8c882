"""The examples of `deploy/` on this vLLM: flags that it takes, and metrics that it publishes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from .against_vllm import needs_vllm, serve_parser

pytestmark = needs_vllm

ROOT = Path(__file__).parents[2]
COMPOSE, KUBERNETES = ROOT / "deploy" / "compose.yaml", ROOT / "deploy" / "kubernetes.yaml"
READERS = (ROOT / "dashboards" / "fluidgate.json", ROOT / "deploy" / "prometheus-rules.yaml")


def commands() -> dict[str, list[str]]:
    """What follows `vllm serve`."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    deployment, _ = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    container: Any = deployment["spec"]["template"]["spec"]["containers"][0]
    return {"compose": compose["services"]["vllm"]["command"], "kubernetes": container["args"]}


@pytest.mark.parametrize(("name", "words"), commands().items(), ids=commands())
def test_vllm_takes_the_command(name: str, words: list[str]) -> None:
    parser = serve_parser()
    flags = {word for word in words if word.startswith("--")}
    assert {"--scheduler-cls", "--shutdown-timeout"} <= flags <= set(parser._option_string_actions)
    parsed = parser.parse_args(words)
    assert parsed.model_tag == words[0]
    assert parsed.scheduler_cls == "fluidgate.serving.scheduler.GateScheduler"
    assert parsed.shutdown_timeout == 90


def test_vllm_publishes_what_is_read() -> None:
    found = find_spec("vllm")
    assert found is not None
    (folder,) = found.submodule_search_locations or ()
    loggers = Path(folder, "v1", "metrics", "loggers.py").read_text(encoding="utf-8")
    published = set(re.findall(r'"(vllm:\w+)"', loggers))
    read = {name for file in READERS for name in re.findall(r"vllm:\w+", file.read_text(encoding="utf-8"))}
    assert "vllm:time_to_first_token_seconds_bucket" in read
    assert {re.sub("_(total|bucket)$", "", name) for name in read} <= published
