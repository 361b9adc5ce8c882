"""vLLM's own scheduler tests, with the gate in the place of its schedulers: what passes without it passes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import ConcurrencyCap, Greedy, Policy
from fluidgate.serving.planfile import PlanFile

FOLDER = os.environ.get("VLLM_OWN_TESTS", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="VLLM_OWN_TESTS names no folder with vLLM's own tests; `make test` fetches them and sets it"
)

FILES = (
    "test_scheduler.py",
    "test_async_scheduler.py",
    "test_deferred_block_free.py",
    "test_swa_inflight_window_free.py",
    "test_prefix_replay.py",
)
MIN_PASSED, MIN_GATED = 150, 80
"""So many pass without the gate, and so many pass with a gate that is on: it is off with what it does not support."""

POLICIES: dict[str, Policy | None] = {"greedy": Greedy(), "concurrency-cap": ConcurrencyCap(1000.0), "fluid": None}
"""None: what runs without a plan file."""

EVICTS = "asserts an eviction, which fluid prevents: it admits the second request later"
EXCEPTED = {
    "fluid": {
        "test_scheduler.py::test_preempt_during_execution": EVICTS,
        "test_async_scheduler.py::test_kv_pressure_preemption_with_inflight_output[0]": EVICTS,
    }
}
"""What may fail under a policy, and why."""

OPT = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
    "torch_dtype": "float16",
}
"""The configuration that the tests fetch from a hub."""


@dataclass(frozen=True)
class Run:
    """What became of the tests, by their ids; `fell_back` names the place as well."""

    passed: set[str]
    failed: set[str]
    gated: set[str]
    fell_back: list[str]


def run_tests(folder: Path, *, gate: bool, plan_path: Path | None = None) -> Run:
    """Run vLLM's tests in a process of their own; `folder` is for what they need and what they say."""
    (folder / "opt").mkdir()
    (folder / "opt" / "config.json").write_text(json.dumps(OPT), encoding="utf-8")
    path = [FOLDER, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "GATE_MODEL": str(folder / "opt"),
        "GATE_REPORT": str(folder / "report.json"),
        "GATE_IN_PLACE": "1" if gate else "0",
    }
    environment.pop("FLUIDGATE_PLAN", None)
    if plan_path is not None:
        environment["FLUIDGATE_PLAN"] = str(plan_path)
    alone = ["-c", os.devnull, "--rootdir", FOLDER, "--noconftest", "-p", "no:cacheprovider"]
    files = [str(Path("tests", "v1", "core", name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", *alone, "-p", "gate_in_place", *files]
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    assert (folder / "report.json").exists(), done.stdout + done.stderr
    made = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    passed, failed, gated = (set(map(_short, made[name])) for name in ("passed", "failed", "gated"))
    return Run(passed - failed, failed, gated, made["fell_back"])


def _short(test: str) -> str:
    return test.rpartition("/")[2]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Without the gate. Some fail, for want of a hub, a GPU or a compiled module."""
    made = run_tests(tmp_path_factory.mktemp("stock"), gate=False)
    assert len(made.passed) >= MIN_PASSED, f"only {len(made.passed)} of vLLM's own tests pass without the gate"
    return made


@pytest.mark.parametrize("name", POLICIES)
def test_what_passes_without_the_gate_passes_with_it(name: str, stock: Run, tmp_path: Path) -> None:
    plan_path = None
    if (policy := POLICIES[name]) is not None:
        hardware = Hardware("10,000 blocks", StepTime(0.01, 1e-5), num_gpu_blocks=10_000)
        made = PlanFile.of(plan(RequestMix([1.0], [100], [100]), hardware), policy, EngineConfig())
        plan_path = tmp_path / "plan.json"
        made.save(plan_path)
    gated = run_tests(tmp_path, gate=True, plan_path=plan_path)
    excepted = EXCEPTED.get(name, {})
    assert stock.passed - gated.passed <= set(excepted)
    assert not gated.fell_back
    assert len(gated.gated & gated.passed) >= MIN_GATED, "the gate is off in too many of the tests"
