"""`fluidgate calibrate` as a user types it: a file that `plan` takes, and one sentence for every bad input."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from .calls import fluidgate_run, good

TRUTH = {"c0": 0.0168, "c_tok": 9.7e-5, "c_kv": 1.3e-7, "c_attn": 6e-9}
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """300 steps of up to 64 decodes and a chunk of prefill; every twentieth was held up five times as long."""
    rng = np.random.default_rng(1)
    decodes, chunk = rng.integers(1, 64, 300), rng.integers(0, 2, 300) * rng.integers(1, 1900, 300)
    kv_tokens, pairs = decodes * rng.integers(100, 600, 300) + chunk, chunk * rng.integers(1, 2000, 300)
    terms = np.column_stack([np.ones(300), decodes + chunk, kv_tokens, pairs])
    ms = 1e3 * (terms @ list(TRUTH.values())) * (1 + 0.02 * rng.standard_normal(300))
    ms[::20] *= 5
    path = tmp_path / "steps.csv"
    rows = zip(decodes + chunk, kv_tokens, pairs, ms, strict=True)
    path.write_text("tokens,kv_tokens,attention_pairs,ms\n" + "".join(f"{t},{k},{p},{d:.4f}\n" for t, k, p, d in rows))
    return path


def test_steps_become_a_hardware_file_that_plan_takes(steps: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "h.json", tmp_path / "fit.svg"
    done = good("calibrate", "steps", steps, "--num-gpu-blocks", "8000", "--out", out, "--plot", plot)
    assert "c_kv" in done.stdout
    assert "ns per KV token" in done.stdout
    file = json.loads(out.read_text())
    for name, value in TRUTH.items():
        assert abs(file["step_time"][name] - value) < 2 * file["calibration"]["plus_minus"][name]
    assert file["relative_error"] < 0.03
    marks = [mark.tag.split("}")[1] for mark in ElementTree.parse(plot).iter()]
    assert marks.count("circle") + marks.count("path") >= 300

    planned = good("plan", "--hardware", out, "--preset", "p512-d20", "--rate", "5", "--format", "json")
    low, high = json.loads(planned.stdout)["uncertainty"]["boundary_rate"]
    assert low < json.loads(planned.stdout)["stability"]["boundary_rate"] < high


def test_plan_and_simulate_warn_once_beyond_the_measured_range(steps: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.json"
    good("calibrate", "steps", steps, "--num-gpu-blocks", "8000", "--out", out)
    for command in ("plan", "simulate"):
        done = good(command, "--hardware", out, "--preset", "azure-conv-2023", "--rate", "1", "--requests", "50")
        warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert len(warned) == 1
        assert "the step time is extrapolated" in warned[0]
        assert "KV tokens (measured: up to " in warned[0]


def test_steps_that_do_not_tell_the_kv_cost_take_it_from_the_data_sheet(steps: Path, tmp_path: Path) -> None:
    lines = steps.read_text().splitlines()
    same = [line.split(",") for line in lines[1:]]
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(f"{t},{300 * int(t)},0,{d}" for t, _, _, d in same)]))
    blind = good("calibrate", "steps", one, "--num-gpu-blocks", "2588", "--out", tmp_path / "blind.json")
    assert "c_kv is not determined" in " ".join(blind.stdout.split())
    assert json.loads((tmp_path / "blind.json").read_text())["calibration"]["plus_minus"]["c_kv"] is None
    sheet = ("--model", "llama-3.1-8b", "--gpu", "rtx-4090")
    done = good("calibrate", "steps", one, *sheet, "--out", tmp_path / "h.json", "--format", "json")
    report = json.loads(done.stdout)
    assert report["name"] == one.stem
    assert any("c_kv is not determined" in r and "the data sheet's" in r for r in report["remarks"])
    assert report["step_time"]["c_attn"] == pytest.approx(5.78e-9, rel=0.01)
    assert "the data sheet's" in json.loads((tmp_path / "h.json").read_text())["source"]


def test_steps_of_a_named_model_keep_the_groups_of_its_cache(steps: Path, tmp_path: Path) -> None:
    """Six layers of Gemma 3, one of which keeps every token: blocks without their groups would hold six times less."""
    folder, out = tmp_path / "gemma", tmp_path / "h.json"
    folder.mkdir()
    windows = {"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 6}
    (folder / "config.json").write_text(json.dumps(CONFIG | windows | {"num_hidden_layers": 6}))
    good("calibrate", "steps", steps, "--model-config", folder, "--gpu", "rtx-4090", "--out", out)
    kinds = [group["kind"] for group in json.loads(out.read_text())["kv_cache"]["groups"]]
    assert sorted(kinds) == ["full", *["sliding"] * 5]


def test_options_that_size_no_cache_are_refused(steps: Path, tmp_path: Path) -> None:
    more = ("--num-gpu-blocks", "8000", "--kv-cache-dtype", "fp8", "--tp", "2", "--out", tmp_path / "h.json")
    done = fluidgate_run("calibrate", "steps", steps, *more)
    assert done.returncode == 1
    assert "--tp and --kv-cache-dtype without a model: add --gpu and --model, or leave them out" in done.stderr


def test_a_config_and_a_gpu_become_an_estimate(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    out = tmp_path / "h.json"
    done = good("calibrate", "config", folder / "config.json", "--gpu", "NVIDIA RTX 4090", "--out", out)
    assert "ESTIMATE, not measured" in done.stderr
    file = json.loads(out.read_text())
    assert file["name"] == "mine on rtx-4090 (estimate)"
    assert file["source"].startswith("ESTIMATE, not measured")
    assert file["relative_error"] is None
    assert "calibration" not in file
    assert file["step_time"]["c_kv"] == pytest.approx(32 * 8 * 128 * 4 / (1008e9 * 0.95))
    good("plan", "--hardware", out, "--preset", "p512-d20", "--rate", "5")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "steps do not show how large the KV cache is: add --num-gpu-blocks"),
        (("--gpu", "l4"), "the GPU alone does not determine a step time: add --model or --model-config"),
        (("--model", "llama-3.1-8b"), "the model alone has no data sheet: add --gpu"),
        (("--model", "a", "--model-config", "b", "--gpu", "l4"), "--model and --model-config both name the model"),
        (("--num-gpu-blocks", "1"), "num_gpu_blocks = 1 leaves no room for KV"),
        (("--num-gpu-blocks", "99", "--plot", "/no/such/folder/x.svg"), "x.svg: cannot be written (there is no folder"),
    ],
)
def test_bad_options_are_one_sentence(steps: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    done = fluidgate_run("calibrate", "steps", steps, "--out", tmp_path / "h.json", *more)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ") or "wrote" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_row_is_named_by_file_and_line_and_nothing_is_written(steps: Path, tmp_path: Path) -> None:
    steps.write_text(steps.read_text() + "12,300,0,-4\n")
    done = fluidgate_run("calibrate", "steps", steps, "--num-gpu-blocks", "99", "--out", tmp_path / "h.json")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {steps}:302: ms = '-4' must be a finite number above 0; correct or remove the line\n"
    )
    assert not (tmp_path / "h.json").exists()
