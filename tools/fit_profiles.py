"""Fit the built-in profiles and write `src/fluidgate/hardware/profiles.json`.

    python tools/fit_profiles.py [GRIDS.json ...]

Default: ../shared/hardware/latency_grids.json and tools/llama_2_7b_a100_grid.json; `vidur_curves.py` adds the variant
`vidur`. Prints the error of every
fit, and how far the data-sheet estimate is from it.

The grids are what GPUs do, and on them c_seq fits as 0 but for the smallest model (2 µs): four terms are fitted, and
c_seq is the estimate's. The profiles of Llama-2-7B on an A100 have none: the paper's simulations, which are
reproduced on them, have no such term.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.calibration import StepPoints
from fluidgate.hardware import (
    FitReport,
    Hardware,
    StepTime,
    estimate_step_time,
    find_gpu,
    find_model,
)
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.hardware.estimate import SEQUENCE_S
from fluidgate.hardware.files import with_rows_on_lines
from fluidgate.hardware.profiles import DEFAULT_VARIANT
from latency_grids import LatencyGrid, fit_grid, read_grids
from vidur_curves import vidur_profile

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "src/fluidgate/hardware/profiles.json"
GRIDS = (ROOT / "../shared/hardware/latency_grids.json", ROOT / "tools/llama_2_7b_a100_grid.json")
PAPER_MODEL = "llama-2-7b"
PAPER_NUM_GPU_BLOCKS = 137_000 // 16 + 1
"""C of arXiv 2504.11320, about 137,000 tokens, and the null block, which holds nothing."""
SMALL_BATCH = 16
"""Sequences of the largest batch that counts as small."""
RULE = "KV within capacity, prefill within 8,192 tokens"


def paper_profile() -> dict[str, Any]:
    """Llama-2-7B on A100-80GB as the paper has it: τ = d0 + d1·KV.

    M* = d0·λa/(1 − d1·λa) is 1/M* = 1/(d0·λa) − d1/d0, linear in 1/λ: with a = 28,172 two of the published
    values give d0 and d1, and the four agree. Least squares over all four: d0 = 10.6076 ms, d1/d0 =
    3.78368e-5 per token, each M* within 0.001%. C = 137,000 tokens is the paper's own figure (all of the 80
    GiB less the weights); M* = 136,568 at 74.1 req/s.
    """
    return {
        "model": PAPER_MODEL,
        "gpu": "a100-80gb",
        "variant": "paper",
        "tp": 1,
        "c0": 0.0106076,
        "c_tok": 0.0,
        "c_kv": 4.01358e-07,
        "c_attn": 0.0,
        "c_seq": 0.0,
        "num_gpu_blocks": PAPER_NUM_GPU_BLOCKS,
        "block_size": 16,
        "gpu_memory_utilization": None,
        "source": "arXiv 2504.11320: d0, d1 solved from its M* at 50, 60, 70, 80 req/s; C about 137,000",
        "mean_error": None,
        "error_by_kind": {},
    }


def variant_of(grid: LatencyGrid) -> str:
    parts = [grid.backend] if grid.backend != "vllm" else []
    parts += [f"tp{grid.tp}"] if grid.tp > 1 else []
    return "-".join(parts) or DEFAULT_VARIANT


def entry(grid: LatencyGrid, hardware: Hardware, report: FitReport, capacity_from: str) -> dict[str, Any]:
    is_papers = find_model(grid.model).name == PAPER_MODEL
    times = hardware.step_time if is_papers else replace(hardware.step_time, c_seq=SEQUENCE_S)
    source = f"{hardware.source} ({grid.system}, {grid.backend}); {RULE}; capacity {capacity_from}"
    return {
        "model": find_model(grid.model).name,
        "gpu": find_gpu(grid.system).name,
        "variant": variant_of(grid),
        "tp": grid.tp,
        **{name: float(f"{getattr(times, name):.6g}") for name in COEFFICIENTS},
        "num_gpu_blocks": hardware.num_gpu_blocks,
        "block_size": hardware.block_size,
        "gpu_memory_utilization": 0.9,
        "source": f"{source}; c_seq assumed, no GPU's time",
        "mean_error": round(report.mean_error, 4),
        "error_by_kind": {kind: round(error, 4) for kind, error in report.error_by_kind.items()},
    }


def capacity(grid: LatencyGrid, grids: list[LatencyGrid]) -> tuple[int, str]:
    """The grid's KV tokens; where it has none, those of vLLM for the same model, GPU and tp."""
    if grid.kv_capacity_tokens is not None:
        return grid.kv_capacity_tokens, "from the grid"
    same = [g for g in grids if (g.model, g.system, g.tp, g.backend) == (grid.model, grid.system, grid.tp, "vllm")]
    tokens = same[0].kv_capacity_tokens if same else None
    if tokens is None:
        raise SystemExit(f"{grid.model} on {grid.system} ({grid.backend}): no KV capacity in any grid")
    return tokens, "from the vLLM grid"


def paper_capacity(fitted: Hardware, grid_tokens: int) -> dict[str, Any]:
    """What differs where the paper gives the capacity, so that both profiles of its machine hold the same."""
    return {
        "num_gpu_blocks": PAPER_NUM_GPU_BLOCKS,
        "gpu_memory_utilization": None,
        "source": f"{fitted.source}; {RULE}; C about 137,000 tokens as in arXiv 2504.11320 (the grid: {grid_tokens:,})",
    }


def print_row(name: str, report: FitReport, grid: LatencyGrid, hardware: Hardware, tokens: int) -> None:
    """One line: the errors of the fit, the mean error of the estimate, estimate ÷ fit per coefficient; GPU time."""
    estimate = estimate_step_time(find_model(grid.model), find_gpu(grid.system), grid.tp)
    points = grid.serving_points(tokens)
    fitted, estimated = (mean_errors(step_time, points) for step_time in (hardware.step_time, estimate))
    ratios = [getattr(estimate, name) / getattr(hardware.step_time, name) for name in COEFFICIENTS if name != "c_seq"]
    kinds = " ".join(f"{report.error_by_kind[kind]:8.1%}" for kind in ("decode", "prefill", "mixed"))
    print(
        f"{name:36s} {report.points:4d} {report.mean_error:6.1%} {report.max_error:6.0%} {kinds}"
        f" {fitted[0]:7.1%} {fitted[1]:7.1%} {estimated[2]:9.1%}   " + " ".join(f"{ratio:6.2f}" for ratio in ratios)
    )


def mean_errors(step_time: StepTime, points: StepPoints) -> tuple[float, float, float]:
    """Mean error of the GPUs' time over steps of up to 16 sequences, of more, and of all."""
    gpus_s = step_time.duration_s(points.tokens, points.kv_tokens, points.attention_pairs, 0)
    error = np.abs(gpus_s / points.duration_s - 1)
    small = points.sequences <= SMALL_BATCH
    return float(error[small].mean()), float(error[~small].mean()), float(error.mean())


def main() -> None:
    grids = [grid for path in sys.argv[1:] or GRIDS for grid in read_grids(path)]
    kinds = "decode  prefill    mixed    <= 16    > 16"
    print(f"{'':36s}    n   mean    max   {kinds}  estimate   its coefficients ÷ the fit's")
    profiles = [paper_profile(), vidur_profile(PAPER_NUM_GPU_BLOCKS)]
    for grid in grids:
        if find_model(grid.model).is_moe:
            print(f"{grid.model}: left out, a mixture of experts is not affine")
            continue
        tokens, capacity_from = capacity(grid, grids)
        hardware, report = fit_grid(grid, kv_capacity_tokens=tokens)
        profiles.append(entry(grid, hardware, report, capacity_from))
        if find_model(grid.model).name == PAPER_MODEL:
            profiles[-1] |= paper_capacity(hardware, tokens)
        name = "/".join(profiles[-1][key] for key in ("model", "gpu", "variant"))
        print_row(name, report, grid, hardware, tokens)
    profiles.sort(key=lambda p: (p["model"], p["gpu"], p["variant"]))
    text = json.dumps({"profiles": profiles}, indent=1, ensure_ascii=False)
    OUT.write_text(with_rows_on_lines(text), encoding="utf-8")


if __name__ == "__main__":
    main()
