"""`fluidgate calibrate aiconfigurator` as a user types it."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from .calls import fluidgate_run, good

pytest.importorskip("aiconfigurator_core", reason="needs aiconfigurator-core: pip install 'fluidgate[hardware]'")
REACH = ("--max-num-seqs", "256", "--max-num-batched-tokens", "2048", "--max-model-len", "16384")


def test_a_file_that_plan_and_simulate_take(tmp_path: Path) -> None:
    out, plot = tmp_path / "moe.json", tmp_path / "moe.svg"
    done = good(
        "calibrate", "aiconfigurator", "Qwen/Qwen3-30B-A3B", "--gpu", "h100_sxm", *REACH, "--out", out, "--plot", plot
    )
    assert "qwen3-30b-a3b on h100-80gb (vllm)" in done.stdout
    assert "decode: interpolated against queried" in done.stdout
    ElementTree.parse(plot)
    load = ("--preset", "azure-conv-2023", "--rate", "10", "--requests", "300", "--format", "json")
    planned = json.loads(good("plan", "--hardware", out, *load).stdout)
    assert 9 < planned["stability"]["boundary_rate"] < 18
    simulated = json.loads(good("simulate", "--hardware", out, *load).stdout)
    assert simulated[0]["mean_tpot_ms"] > 4.5  # a single decode takes 4.6 ms
    refused = fluidgate_run("simulate", "--hardware", out, *load, "--max-num-seqs", "300")
    assert refused.returncode == 1
    assert "known up to 256 requests at once" in refused.stderr


def test_json(tmp_path: Path) -> None:
    done = good(
        *("calibrate", "aiconfigurator", "llama-3.1-8b", "--gpu", "a100", *REACH),
        *("--num-gpu-blocks", "4000", "--out", tmp_path / "h.json", "--format", "json"),
    )
    told = json.loads(done.stdout)
    assert told["num_gpu_blocks"] == 4000
    assert set(told["interpolation_error"]) == {"decode", "prefill", "chunk", "mixed"}
    assert told["interpolation_error"]["decode"]["mean"] < 0.01


def test_an_unknown_gpu_is_one_sentence(tmp_path: Path) -> None:
    done = fluidgate_run("calibrate", "aiconfigurator", "llama-3.1-8b", "--gpu", "tpu", "--out", tmp_path / "h.json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown GPU 'tpu'")
    assert done.stderr.count("\n") == 1
