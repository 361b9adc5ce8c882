"""What a gate before the servers takes from a plan file, and which plans it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluidgate import EngineConfig, plan
from fluidgate.adapters.planned import Planned
from fluidgate.errors import InputError
from fluidgate.fleet import Replica
from fluidgate.hardware import load_profile
from fluidgate.policies import Fluid, make_policy
from fluidgate.serving import PlanFile
from fluidgate.workload import generate


def saved(path: Path, policy: str = "fluid") -> Path:
    hardware = load_profile("llama-2-7b", "a100-80gb")
    fluid_plan = plan(generate("azure-conv-2023", n=500, rate=4.0, seed=1), hardware)
    config = EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048)
    PlanFile.of(fluid_plan, make_policy(policy, fluid_plan), config).save(path)
    return path


def test_replicas_and_policy_are_those_of_the_plan(tmp_path: Path) -> None:
    planned = Planned.load(saved(tmp_path / "plan.json"))
    blocks = load_profile("llama-2-7b", "a100-80gb").num_gpu_blocks - 1
    assert planned.replica("a") == Replica("a", blocks, 16, 256, 2048)
    assert planned.replica("a", 77).total_blocks == 77
    assert isinstance(planned.policy, Fluid)
    assert planned.gate(gates=3).books.gates == 3
    assert (planned.classes, planned.class_id("unknown"), planned.class_id(None)) == ((), 0, 0)
    labelled = Planned(planned.policy, 10, 16, 8, 2048, ("chat", "code"))
    assert [labelled.class_id(label) for label in ("chat", "code", "other")] == [0, 1, 1]


def test_a_plan_of_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs fluid, and the plan is of concurrency-cap; save one with"):
        Planned.load(saved(tmp_path / "plan.json", "concurrency-cap"))
