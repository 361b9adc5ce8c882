"""`get_hardware()`: a profile where there is one, an estimate that says so where there is none."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import (
    Hardware,
    ServerDefaults,
    estimate_step_time,
    find_gpu,
    find_model,
    get_hardware,
    load_profile,
    profile_names,
)
from latency_grids import read_grids

MY_MODEL = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def test_a_profile_is_used_where_there_is_one() -> None:
    """At the memory share that it was made for, and with what a server there sets by itself."""

    def found(model: str, gpu: str, **options: Any) -> Hardware:
        return replace(get_hardware(model, gpu, gpu_memory_utilization=0.9, **options), server=ServerDefaults())

    assert found("Meta-Llama-3.1-8B", "h100_sxm") == load_profile("llama-3.1-8b", "h100-80gb")
    assert found("llama-3.1-70b", "h200", tp=4) == load_profile("llama-3.1-70b", "h200", "tp4")
    assert found("llama-3.1-70b", "h200", variant="tp4") == load_profile("llama-3.1-70b", "h200", "tp4")
    paper = get_hardware("llama-2-7b", "a100", variant="paper")
    assert replace(paper, server=ServerDefaults()) == load_profile("llama-2-7b", "a100", "paper")


@given(st.floats(0.35, 1.0))
def test_another_memory_fraction_moves_a_profile_by_that_memory(fraction: float) -> None:
    base = load_profile("llama-3.1-8b", "a100-80gb")
    moved = get_hardware("llama-3.1-8b", "a100-80gb", gpu_memory_utilization=fraction)
    more_blocks = (fraction - 0.9) * 80 * 2**30 / (16 * 131_072)
    assert moved.num_gpu_blocks == pytest.approx(base.num_gpu_blocks + more_blocks, abs=1)
    assert moved.step_time == base.step_time


def test_the_papers_capacity_is_no_fraction() -> None:
    # 0.8 of 80 GiB less 12.55 GiB of weights and 2 GiB of reserve, at 0.5 MiB a token
    computed = get_hardware("llama-2-7b", "a100", variant="paper", gpu_memory_utilization=0.8)
    assert computed.kv_capacity_tokens == pytest.approx((64 - 12.55 - 2) * 2048, rel=1e-3)
    given_blocks = get_hardware("llama-2-7b", "a100", variant="paper", num_gpu_blocks=500)
    assert given_blocks.num_gpu_blocks == 500


@pytest.mark.parametrize("gpu", ["a100", "rtx-4090"])
def test_given_blocks_override_and_say_so(gpu: str) -> None:
    found = get_hardware("llama-3.1-8b", gpu, num_gpu_blocks=2588, block_size=32)
    assert (found.num_gpu_blocks, found.block_size) == (2588, 32)
    assert found.source.endswith("num_gpu_blocks as given")


def test_a_block_size_keeps_the_memory() -> None:
    small, large = (get_hardware("llama-3.1-8b", "a100", block_size=b) for b in (8, 64))
    assert 0 <= small.num_gpu_blocks * 8 - large.num_gpu_blocks * 64 < 64


def test_without_a_profile_it_is_an_estimate_and_says_so() -> None:
    found = get_hardware("qwen3-8b", "l4")
    assert found.source.startswith("ESTIMATE, not measured")
    assert "estimate" in found.name
    assert np.isnan(found.relative_error)


def test_a_config_names_a_new_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MY_MODEL))
    found = get_hardware("my-model", "a100", config=tmp_path)
    assert found.name == "my-model on a100-80gb (estimate)"
    # 16 layers of q, k, v, o (2 · 2048 · 40 · 64), MLP (3 · 2048 · 8192) and norms; two tables, a norm.
    parameters = 16 * (2 * 2048 * 40 * 64 + 3 * 2048 * 8192 + 2 * 2048) + 2 * 32000 * 2048 + 2048
    left_bytes = 0.92 * 80 * 2**30 - 2 * parameters - 2 * 2**30
    assert found.num_gpu_blocks == left_bytes // (16 * 16 * 8 * 64 * 4)
    assert found.step_time.c_kv == pytest.approx(16 * 8 * 64 * 4 / (2039e9 * 0.95))


def test_a_config_alone_is_named_by_its_folder_or_file(tmp_path: Path) -> None:
    (tmp_path / "their-model").mkdir()
    for file in ("their-model/config.json", "other-model.json"):
        (tmp_path / file).write_text(json.dumps(MY_MODEL))
    assert get_hardware(None, "a100", config=tmp_path / "their-model").name.startswith("their-model on ")
    assert get_hardware(None, "a100", config=tmp_path / "other-model.json").name.startswith("other-model on ")
    with pytest.raises(InputError, match="no model is given"):
        get_hardware(None, "a100")


def test_a_config_that_differs_from_the_named_model_gets_no_profile(tmp_path: Path) -> None:
    same = {
        **MY_MODEL,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(same))
    assert get_hardware("llama-3.1-8b", "a100", config=tmp_path).source == load_profile("llama-3.1-8b", "a100").source
    (tmp_path / "config.json").write_text(json.dumps(same | {"num_hidden_layers": 16}))
    assert "ESTIMATE" in get_hardware("llama-3.1-8b", "a100", config=tmp_path).source
    with pytest.raises(InputError, match=r"as its config\.json describes it has no profile"):
        get_hardware("llama-3.1-8b", "a100", config=tmp_path, variant="paper")


@pytest.mark.parametrize(
    ("model", "gpu", "options", "message"),
    [
        ("llama-9", "a100", {}, "unknown model 'llama-9'"),
        ("llama-2-7b", "a1000", {}, "unknown GPU 'a1000'. Known: a10,"),
        ("qwen3-30b-a3b", "h100", {}, "mixture of experts: its step time is not affine"),
        ("llama-2-7b", "a100", {"variant": "linear"}, "no profile variant 'linear'; it has four-term, paper"),
        ("qwen3-8b", "l4", {"variant": "paper"}, "there is no profile of qwen3-8b on l4"),
        ("llama-2-7b", "a100", {"tp": 3}, "tp = 3 does not divide"),
        ("llama-2-7b", "a100", {"tp": 0}, "tp = 0 does not divide"),
        ("llama-3.1-70b", "a100", {"tp": 2, "variant": "tp4"}, "is for tp = 4, not 2"),
        ("llama-3.1-70b", "l4", {}, "does not fit on 1 × l4"),
        ("llama-2-7b", "a100", {"gpu_memory_utilization": 0.0}, "gpu_memory_utilization = 0.0"),
        ("llama-2-7b", "a100", {"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization = nan"),
        ("llama-2-7b", "a100", {"gpu_memory_utilization": 0.1}, "does not fit on 1 × a100-80gb"),
        ("llama-2-7b", "a100", {"num_gpu_blocks": 0}, "num_gpu_blocks = 0 leaves no room"),
        ("llama-2-7b", "a100", {"block_size": 0}, "block_size = 0 must be at least 1"),
    ],
)
def test_refusals(model: str, gpu: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_hardware(model, gpu, **options)
    assert message in str(refusal.value)


def test_the_estimate_is_as_close_to_the_profiles_as_it_says() -> None:
    stated = {"c0": (0.74, 1.14), "c_tok": (0.52, 1.15), "c_kv": (0.83, 1.26), "c_attn": (0.50, 2.01)}
    ratios: dict[str, list[float]] = {name: [] for name in stated}
    for name in profile_names():
        model, gpu, variant = name.split("/")
        if variant not in ("paper", "vidur"):  # those of simulations
            tp = int(variant.removeprefix("tp")) if variant.startswith("tp") else 1
            estimate = estimate_step_time(find_model(model), find_gpu(gpu), tp)
            fitted = load_profile(model, gpu, variant).step_time
            for coefficient, values in ratios.items():
                values.append(getattr(estimate, coefficient) / getattr(fitted, coefficient))
    for coefficient, values in ratios.items():
        assert (min(values), max(values)) == pytest.approx(stated[coefficient], abs=0.006), coefficient


def test_the_estimate_is_within_a_fifth_of_every_grid_on_average(shared_dir: Path) -> None:
    for grid in read_grids(shared_dir / "hardware" / "latency_grids.json"):
        model = find_model(grid.model)
        if model.is_moe:
            continue
        points = grid.serving_points(grid.kv_capacity_tokens or 432_992)
        times = estimate_step_time(model, find_gpu(grid.system), grid.tp)
        gpus_s = times.duration_s(points.tokens, points.kv_tokens, points.attention_pairs, 0)  # the grids have no host
        assert np.abs(gpus_s / points.duration_s - 1).mean() < 0.20, grid.model


def test_the_estimate_meets_a_measured_vllm_run(shared_dir: Path) -> None:
    # Seconds without prefill: decode steps per second are the tokens generated over the requests running.
    times = get_hardware("llama-3.1-8b", "rtx-4090").step_time
    ratios = []
    path = shared_dir / "traces" / "vllm_measured_RTX4090_Llama-3.1-8B.timeseries.csv"
    with path.open() as file:
        for row in csv.DictReader(file):
            running, generated = float(row["running"]), float(row["gen_throughput"])
            if float(row["prompt_throughput"]) == 0 and running > 0 and generated > 0:
                kv_tokens = float(row["kv_cache_pct"]) / 100 * 2588 * 16
                ratios.append(times.duration_s(running, kv_tokens, 0, running) / (running / generated))
    assert len(ratios) > 100
    assert np.median(ratios) == pytest.approx(1.06, abs=0.01)
