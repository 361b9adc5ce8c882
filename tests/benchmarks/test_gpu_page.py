"""The page of the study on a GPU: what is open is said, and what the docs hold is what the command writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
OPEN = "Figures for a GPU are open"


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield import_module("page")


def run(policy: str, predicted_ms: float, measured_ms: float | None) -> dict[str, Any]:
    def numbers(e2e_ms: float) -> dict[str, Any]:
        return {
            "mean_ttft_ms": e2e_ms / 2,
            "mean_tpot_ms": e2e_ms / 40,
            "mean_e2el_ms": e2e_ms,
            "p99_longest_silence_s": 0.0,
            "output_throughput": 1e6 / e2e_ms,
        }

    measured = None if measured_ms is None else numbers(measured_ms)
    here = {"workload": "lmsys", "load": 0.8, "rate": 31.4, "requests": 320}
    return {**here, "policy": policy, "predicted": numbers(predicted_ms), "measured": measured}


def result(*runs: dict[str, Any], on_gpu: bool = True) -> dict[str, Any]:
    return {
        "study": "paper-h3",
        "command": "python run.py",
        "torch": "2.11",
        "device": "NVIDIA H100",
        "model": "llama-2-7b",
        "dtype": "bfloat16",
        "attention": "triton",
        "num_gpu_blocks": 1500,
        "block_size": 16,
        "on_gpu": on_gpu,
        "wall_s": 321.0,
        "runs": list(runs),
        "calibration": {"steps": 99, "held_out_error": {"mean_without_outliers": 0.012}},
        "sweep": {
            "line": {"d0_s": 0.0125, "d1_s_per_kv_token": 2.5e-7, "r2": 0.98765, "mean_error": 0.0123},
            "calibrated_decode_step": {"r2": 0.9, "mean_error": 0.05},
            "calibrated_batch": {"r2": 0.8, "mean_error": 0.06},
            "rows": [[128, 34048.0, 0.021, 0.022, 0.023, 1.0, 1.1]],
        },
    }


def test_without_a_result_the_page_says_what_is_open(page: ModuleType) -> None:
    text = page.page(None)
    assert OPEN in text
    assert "--study paper-h3" in text


def test_a_result_of_a_cpu_leaves_a_gpu_open(page: ModuleType) -> None:
    assert OPEN in page.page(result(run("greedy", 1000, 1100), on_gpu=False))
    assert OPEN not in page.page(result(run("greedy", 1000, 1100)))


def test_the_page_shows_measured_beside_predicted(page: ModuleType) -> None:
    text = page.page(result(run("greedy", 2000, 2500), run("wait", 1500, 2000), run("fluid", 3000, None)))
    assert "| 0.8 | 31.4 | 320 | 2.5 (2) | **2 (1.5)** | not measured (3) |" in text
    assert "| E2E mean | 20.0% | 25.0% | – |" in text
    assert "| silence p99 | – | – | – |" in text  # nothing to divide by
    assert "within 1% of the least measured at 1 of 1 loads" in text
    assert "2 of 3 runs measured in 321 s" in text
    assert "| line through the decode steps | 0.9877 | 1.23% |" in text
    assert "d0 = 12.5 ms, d1 = 0.25 µs per KV token" in text


def test_a_prediction_that_names_the_wrong_policy_is_told(page: ModuleType) -> None:
    text = page.page(result(run("greedy", 1000, 2500), run("wait", 1500, 2000)))
    assert "within 1% of the least measured at 0 of 1 loads" in text


def test_a_study_that_ended_early_has_a_page(page: ModuleType) -> None:
    text = page.page({key: value for key, value in result().items() if key not in ("runs", "sweep", "calibration")})
    assert "ended before its step times were fitted" in text


def test_the_docs_hold_what_the_command_writes(page: ModuleType) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.read_result(None))


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "no such file"), ({"model": "tiny"}, "is not of --study paper-h3")]
)
def test_another_file_is_refused(tmp_path: Path, content: dict[str, Any] | None, sentence: str) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, str(FOLDER / "page.py"), str(file), "--page", str(tmp_path / "page.md")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode != 0
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "page.md").exists()
