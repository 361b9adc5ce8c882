"""Latency grids: each point in the terms of `StepTime`, the range that is fitted, and files that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from latency_grids import fit_grid, read_grids

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
    return float(TRUTH.duration_s(chunk + decodes, kv + decodes * (context + 128), pairs, 0))


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
            "ms": [[1e3 * TRUTH.duration_s(b, b * (x + 1), 0, 0) for x in CTX] for b in BS],
        },
        "prefill_bs1": {"isl": ISL, "ms": [1e3 * TRUTH.duration_s(n, n, n * (n + 1) / 2, 0) for n in ISL]},
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


def fitted(path: Path, **capacity: int) -> Hardware:
    return fit_grid(read_grids(path)[0], **capacity)[0]


def test_every_point_means_what_the_grid_measured(tmp_path: Path) -> None:
    hardware = fitted(grid_file(tmp_path))
    assert hardware.name == "llama-3.1-8b on a100-80gb (vllm)"
    for name in ("c0", "c_tok", "c_kv", "c_attn"):
        assert getattr(hardware.step_time, name) == pytest.approx(getattr(TRUTH, name), rel=1e-6)
    assert hardware.relative_error < 1e-9
    assert hardware.num_gpu_blocks == 50_000 // 16


def test_points_that_no_server_meets_are_left_out(tmp_path: Path) -> None:
    (grid,) = read_grids(grid_file(tmp_path))
    # 6 decode + 3 prefill + 4 mixed with decodes; the mixed row without decodes repeats the prefill.
    assert len(grid.points.kind) == 13
    kept = grid.serving_points(50_000)
    assert 64 * 1025 not in kept.kv_tokens
    assert 16384 not in kept.tokens
    assert len(kept.kind) == 11
    assert np.all(kept.kv_tokens <= 50_000)


def test_a_point_says_how_many_requests_it_schedules(tmp_path: Path) -> None:
    (grid,) = read_grids(grid_file(tmp_path))
    kind, sequences = grid.points.kind, grid.points.sequences
    assert sequences[kind == "decode"].tolist() == [1, 1, 16, 16, 64, 64]
    assert sequences[kind == "prefill"].tolist() == [1, 1, 1]
    # beside 8 decodes: a chunk of 256 tokens of one prompt; 2,048 tokens as four prompts of 512 or two of 1,024
    assert sequences[kind == "mixed"].tolist() == [9, 9, 12, 10]


def test_the_mixture_of_experts_of_the_grids_is_not_affine(shared_dir: Path) -> None:
    grids = read_grids(shared_dir / "hardware" / "latency_grids.json")
    errors = {grid.model: fit_grid(grid, kv_capacity_tokens=100_000)[1].mean_error for grid in grids}
    assert errors.pop("Qwen/Qwen3-30B-A3B") > 0.25 > 2 * max(errors.values())


def test_a_grid_that_does_not_say_its_capacity(tmp_path: Path) -> None:
    silent = grid_file(tmp_path, kv_capacity_tokens=...)
    with pytest.raises(InputError, match="does not say how many KV tokens fit; give kv_capacity_tokens"):
        fitted(silent)
    assert fitted(silent, kv_capacity_tokens=40_000).num_gpu_blocks == 2500


def test_tensor_parallelism_is_in_the_name(tmp_path: Path) -> None:
    assert fitted(grid_file(tmp_path, parallel={"tp_size": 2})).name == "llama-3.1-8b on 2 × a100-80gb (vllm)"


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
