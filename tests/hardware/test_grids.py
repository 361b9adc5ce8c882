"""Latency grids: each point in the terms of `StepTime`, the range that is fitted, and files that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.hardware import StepTime, hardware_from_grid, read_grids

TRUTH = StepTime(0.01, 5e-5, 1e-7, 3e-9)
BS, CTX, ISL = [1, 16, 64], [128, 1024], [64, 512, 16384]
CHUNKS, DECODES, GEN_CTX = [256, 2048], [0, 8], [512, 1024]


def mixed_s(chunk: int, decodes: int, context: int) -> float:
    """A mixed step counted prompt by prompt: whole prompts, or the mean over the chunks of one prompt."""
    if chunk >= context:
        before = [0] * (chunk // context)
        size = context
    else:
        before = list(range(0, context, chunk))
        size = chunk
    steps_per_prompt = 1 if chunk >= context else len(before)
    pairs = sum(size * b + size * (size + 1) / 2 for b in before) / steps_per_prompt
    kv = sum(b + size for b in before) / steps_per_prompt
    return float(TRUTH.duration_s(chunk + decodes, kv + decodes * (context + 128), pairs))


def grid_file(folder: Path, **changes: Any) -> Path:
    """A grid whose every latency is `TRUTH`; a value of `...` removes the key."""
    grid: dict[str, Any] = {
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "system": "a100_sxm",
        "backend": "vllm",
        "parallel": {},
        "unit": "ms",
        "kv_capacity_tokens": 50_000,
        "decode": {
            "bs": BS,
            "ctx": CTX,
            "ms": [[1e3 * TRUTH.duration_s(b, b * (x + 1)) for x in CTX] for b in BS],
        },
        "prefill_bs1": {"isl": ISL, "ms": [1e3 * TRUTH.duration_s(n, n, n * (n + 1) / 2) for n in ISL]},
        "mixed": {
            "ctx_tokens": CHUNKS,
            "gen_reqs": DECODES,
            "gen_ctx": GEN_CTX,
            "ms": [[[1e3 * mixed_s(c, n, x) for x in GEN_CTX] for n in DECODES] for c in CHUNKS],
        },
    }
    grid = {k: v for k, v in (grid | changes).items() if v is not ...}
    path = folder / "grids.json"
    path.write_text(json.dumps({"source": "made up", "grids": [grid]}))
    return path


def test_every_point_means_what_the_grid_measured(tmp_path: Path) -> None:
    hardware = hardware_from_grid(grid_file(tmp_path), "llama-3.1-8b", "a100-80gb")
    for name in ("c0", "c_tok", "c_kv", "c_attn"):
        assert getattr(hardware.step_time, name) == pytest.approx(getattr(TRUTH, name), rel=1e-6)
    assert hardware.relative_error < 1e-9
    assert hardware.num_gpu_blocks == 50_000 // 16
    assert "WARNING" not in hardware.source


def test_points_that_no_server_meets_are_left_out(tmp_path: Path) -> None:
    (grid,) = read_grids(grid_file(tmp_path))
    # 6 decode + 3 prefill + 4 mixed with decodes; the mixed row without decodes repeats the prefill.
    assert len(grid.points.kind) == 13
    kept = grid.serving_points(50_000)
    assert 64 * 1025 not in kept.kv_tokens
    assert 16384 not in kept.tokens
    assert len(kept.kind) == 11
    assert np.all(kept.kv_tokens <= 50_000)


def test_a_poor_fit_carries_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    decode = {"bs": BS, "ctx": CTX, "ms": (10 * np.exp(rng.normal(0, 1, (3, 2)))).tolist()}
    hardware = hardware_from_grid(grid_file(tmp_path, decode=decode), "llama-3.1-8b", "a100")
    assert hardware.relative_error > 0.15
    assert f"WARNING: not affine, the fit is off by {hardware.relative_error:.0%}" in hardware.source


def test_the_mixture_of_experts_of_the_grids_is_fitted_on_request_only(shared_dir: Path) -> None:
    path = shared_dir / "hardware" / "latency_grids.json"
    hardware = hardware_from_grid(path, "Qwen/Qwen3-30B-A3B", "h100_sxm")
    assert hardware.relative_error > 0.25
    assert "WARNING" in hardware.source


def test_a_pair_with_two_engines_is_told_apart(shared_dir: Path) -> None:
    path = shared_dir / "hardware" / "latency_grids.json"
    trtllm = hardware_from_grid(path, "llama-3.1-8b", "h100", backend="trtllm")
    assert trtllm.num_gpu_blocks == 448_672 // 16
    with pytest.raises(InputError, match="does not say how many KV tokens fit; give kv_capacity_tokens"):
        hardware_from_grid(path, "llama-3.1-8b", "h100", backend="sglang")
    sglang = hardware_from_grid(path, "llama-3.1-8b", "h100", backend="sglang", kv_capacity_tokens=400_000)
    assert sglang.num_gpu_blocks == 25_000


def test_a_grid_that_is_not_there(tmp_path: Path) -> None:
    path = grid_file(tmp_path)
    with pytest.raises(InputError, match=r"no grid is llama-3.1-8b on h200 \(vllm\); it has llama-3.1-8b on a100-80gb"):
        hardware_from_grid(path, "llama-3.1-8b", "h200")
    with pytest.raises(InputError, match=r"no grid is llama-3.1-8b on a100 \(vllm, tp 4\)"):
        hardware_from_grid(path, "llama-3.1-8b", "a100", tp=4)
    with pytest.raises(InputError, match="block_size = 0"):
        hardware_from_grid(path, "llama-3.1-8b", "a100", block_size=0)


def test_two_parallelisms_need_a_name(tmp_path: Path) -> None:
    path = grid_file(tmp_path)
    file = json.loads(path.read_text())
    file["grids"].append(file["grids"][0] | {"parallel": {"tp_size": 2}})
    path.write_text(json.dumps(file))
    with pytest.raises(InputError, match=r"2 grids are .*; name tp too"):
        hardware_from_grid(path, "llama-3.1-8b", "a100")
    assert "2 × a100-80gb" in hardware_from_grid(path, "llama-3.1-8b", "a100", tp=2).name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "grids[0]: 'model' is missing"),
        ({"unit": "s"}, "'unit' = 's': only ms is known"),
        ({"decode": ...}, "'decode' is missing"),
        ({"decode": {"bs": [1], "ctx": [2], "ms": [[1, 2]]}}, "decode: 'ms' has shape (1, 2), not (1, 1)"),
        ({"decode": {"bs": [1, 2], "ctx": [2], "ms": [[1], [2, 3]]}}, "rows of equal length"),
        ({"decode": {"bs": [], "ctx": [2], "ms": []}}, "decode: 'bs' has shape (0,)"),
        ({"prefill_bs1": {"isl": [1], "ms": [-1]}}, "'ms' holds a number that is negative or not finite"),
        ({"prefill_bs1": {"isl": [1], "ms": [0]}}, "latency of 0 ms"),
        ({"prefill_bs1": {"isl": ["x"], "ms": [1]}}, "'isl' must be a list of numbers"),
        ({"mixed": {"ctx_tokens": [0], "gen_reqs": [1], "gen_ctx": [1], "ms": [[[1]]]}}, "at least 1 token"),
        ({"kv_capacity_tokens": 0}, "'kv_capacity_tokens' = 0 must be at least 1"),
        ({"parallel": {"tp_size": 0}}, "'tp_size' = 0 must be at least 1"),
    ],
)
def test_malformed_grids_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = grid_file(tmp_path, **changes)
    with pytest.raises(InputError) as refusal:
        read_grids(path)
    assert str(refusal.value).startswith(str(path))
    assert message in str(refusal.value)
