"""A pytest plugin that stands in for the conftest.py of vLLM's tests: no hub, and the gate where the environment asks.

GATE_MODEL is the folder of a configuration, GATE_REPORT the file to write what happened to. With GATE_IN_PLACE=1 both
of vLLM's schedulers are `GateScheduler`, under the policy of FLUIDGATE_PLAN or, without one, `fluid`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import tests.v1.core.utils as utils
from prometheus_client import REGISTRY
from vllm.v1.core.sched import async_scheduler
from vllm.v1.core.sched.scheduler import Scheduler

HUB_MODEL = "facebook/opt-125m"

report: dict[str, Any] = {"passed": [], "failed": [], "gated": [], "fell_back": []}


def synchronous_gate() -> ModuleType:
    """A second copy of the plugin's module, over vLLM's synchronous scheduler."""
    spec = importlib.util.find_spec("fluidgate.serving.scheduler")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.object(async_scheduler, "AsyncScheduler", Scheduler):
        spec.loader.exec_module(module)
    return module


def local_config(model: str | None = None, *, original: Any = utils.ModelConfig, **options: Any) -> Any:
    if model == HUB_MODEL:
        model = os.environ["GATE_MODEL"]
        options |= {"skip_tokenizer_init": True, "tokenizer": model}
    return original(model=model, **options)


def noting_the_gate(module: ModuleType) -> Any:
    """Its `GateScheduler`, which notes the tests in which its gate is on."""

    class Noting(module.GateScheduler):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.gatekeeper is not None:
                report["gated"].append(current_test())

    return Noting


def current_test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


utils.ModelConfig = local_config  # type: ignore[misc,assignment]
if os.environ.get("GATE_IN_PLACE") == "1":
    from fluidgate.serving import scheduler

    utils.AsyncScheduler = noting_the_gate(scheduler)
    utils.Scheduler = noting_the_gate(synchronous_gate())


def fallbacks() -> dict[str, float]:
    """Fall-backs and rebuilds so far by their place; where the gate cannot be used there is nothing to fall from."""
    counted = ("fluidgate_fallbacks", "fluidgate_rebuilds")
    families = [family for family in REGISTRY.collect() if family.name in counted]
    samples = [sample for family in families for sample in family.samples if sample.name.endswith("_total")]
    values = {f"{sample.name} in {sample.labels['where']}": sample.value for sample in samples}
    return {place: value for place, value in values.items() if not place.endswith("probe")}


@pytest.fixture(autouse=True)
def _note_fallbacks() -> Iterator[None]:
    before = fallbacks()
    yield
    places = [where for where, count in fallbacks().items() if count > before.get(where, 0.0)]
    report["fell_back"] += [f"{current_test()}: {where}" for where in places]


def pytest_runtest_logreport(report: pytest.TestReport, made: dict[str, Any] = report) -> None:
    if report.failed:
        made["failed"].append(report.nodeid)
    elif report.when == "call" and report.passed:
        made["passed"].append(report.nodeid)


def pytest_sessionfinish() -> None:
    Path(os.environ["GATE_REPORT"]).write_text(json.dumps(report), encoding="utf-8")
