"""Gates of the adapters' tests: servers with one seat each, so that who comes third waits."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fluidgate import EngineConfig, Hardware, StepTime, Workload
from fluidgate.policies import make_policy
from fluidgate.runs import plan_for
from fluidgate.serving import PlanFile

from .litellm_hooks import A, B, Proxy, Watched, deployment


@pytest.fixture(scope="session")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of servers with one seat, and lengths so evenly spread that nothing is paced."""
    lengths = np.arange(400) % 400 + 50
    workload = Workload(np.arange(400) / 4, np.full(400, 64), lengths)
    config = EngineConfig(max_num_seqs=1)
    plan = plan_for(workload, Hardware("small", StepTime(c0=0.003, c_tok=5e-5), 401, 16), config)
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    PlanFile.of(plan, make_policy("fluid", plan), config).save(path)
    return path


@pytest.fixture
def proxy(plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """Two servers with one seat each."""
    state = SimpleNamespace(
        llm_router=SimpleNamespace(model_list=[A, B, deployment("c", "other")], disable_cooldowns=True),
        general_settings={"cancel_on_disconnect": True},
    )
    monkeypatch.setitem(sys.modules, "litellm.proxy.proxy_server", state)
    from fluidgate.adapters.litellm import FluidGate

    gate = FluidGate(plan_file, "tiny")
    gate._watch = Watched(gate)
    return Proxy(gate, state)
