"""Latency grids queried from aiconfigurator-core: reading them, and fitting `StepTime` to them.

A grid holds step latencies of one model, GPU and engine, by the calls of aiconfigurator's `EngineHandle`;
what each means in the terms of `StepTime` (checked against aiconfigurator-core 0.12):

- decode, `decode_step_latency(bs, ctx, 2)`: bs requests end the step with ctx + 1 tokens each.
- prefill, `predict_prefill_latency(1, isl)`: one whole prompt.
- mixed, `mixed_step_latency(ctx_tokens, gen_reqs, gen_ctx, 256)`: gen_reqs decodes half-way through 256
output
  tokens, so with gen_ctx + 128 tokens each, and ctx_tokens of prefill from prompts of gen_ctx tokens: whole
  prompts when ctx_tokens ≥ gen_ctx, else one chunk, the mean over the chunks of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT, MAX_KV_TOKENS, MAX_STEP_S, MIN_STEP_S
from fluidgate.calibration import StepPoints
from fluidgate.errors import InputError
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.fit import FitReport, fit_step_time
from fluidgate.hardware.gpus import canonical_gpu_name
from fluidgate.hardware.model_config import canonical_model_name
from fluidgate.jsonfile import JsonObject, read_object

# Servers bound a step by max_num_batched_tokens, at most 8,192 by vLLM's defaults: longer prefills come in
# chunks.
MAX_PREFILL_TOKENS = 8192
MIXED_DECODE_OFFSET = 128
BLOCK_SIZE = 16


@dataclass(frozen=True)
class LatencyGrid:
    """Step latencies of one model, GPU and engine.

    Attributes:
        model, system, backend: as aiconfigurator names them.
        tp: tensor-parallel GPUs.
        kv_capacity_tokens: KV tokens that fit at 0.9 of the memory; None where the grid does not say.
        source: where the grid was queried.
        points: every point of the grid, the ones a server never sees included.
    """

    model: str
    system: str
    backend: str
    tp: int
    kv_capacity_tokens: int | None
    source: str
    points: StepPoints

    def serving_points(self, kv_capacity_tokens: int) -> StepPoints:
        """The points a server can meet: KV within capacity, prefill within 8,192 tokens."""
        p = self.points
        prefill_tokens = np.where(p.kind == "prefill", p.tokens, 0)
        keep = (p.kv_tokens <= kv_capacity_tokens) & (prefill_tokens <= MAX_PREFILL_TOKENS)
        return StepPoints(*(column[keep] for column in p))


def read_grids(path: Path | str) -> list[LatencyGrid]:
    """All grids in a file.

    Raises:
        InputError: not a grid file; names the file, the grid and the key.
    """
    file = read_object(path, "a file of latency grids")
    source = file.text("source")
    return [_grid(entry, source) for entry in file.objects("grids")]


def fit_grid(grid: LatencyGrid, *, kv_capacity_tokens: int | None = None) -> tuple[Hardware, FitReport]:
    """The affine fit to the grid's serving points, and its report. A grid is what GPUs do, so that c_seq is 0.

    Args:
        kv_capacity_tokens: KV tokens that fit; needed only where the grid does not say.

    Raises:
        InputError: no capacity, or too few points.
    """
    capacity = kv_capacity_tokens if kv_capacity_tokens is not None else grid.kv_capacity_tokens
    if capacity is None:
        raise InputError(f"the grid of {_label(grid)} does not say how many KV tokens fit; give kv_capacity_tokens")
    points = grid.serving_points(capacity)
    step_time, report = fit_step_time(*points[1:4], None, points.duration_s, kind=list(points.kind))
    hardware = Hardware(
        name=_label(grid),
        step_time=step_time,
        num_gpu_blocks=capacity // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        source=f"non-negative least squares on {report.points} points of {grid.source}",
        relative_error=report.mean_error,
    )
    return hardware, report


def _label(grid: LatencyGrid) -> str:
    gpus = f"{grid.tp} × " if grid.tp > 1 else ""
    return f"{canonical_model_name(grid.model)} on {gpus}{canonical_gpu_name(grid.system)} ({grid.backend})"


def _grid(entry: JsonObject, source: str) -> LatencyGrid:
    if entry.text("unit") != "ms":
        raise entry.error("unit", f"= {entry.text('unit')!r}: only ms is known")
    parts = [_decode_points(entry.object("decode")), _prefill_points(entry.object("prefill_bs1"))]
    parts.append(_mixed_points(entry.object("mixed")))
    points = StepPoints(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    if np.any(points.duration_s <= 0):
        raise InputError(f"{entry.where}: holds a latency of 0 ms; a step takes time")
    shortest_s, longest_s = float(points.duration_s.min()), float(points.duration_s.max())
    if shortest_s < MIN_STEP_S or longest_s > MAX_STEP_S:
        raise InputError(
            f"{entry.where}: holds latencies from {shortest_s:g} to {longest_s:g} s; a step takes {MIN_STEP_S:g} to "
            f"{MAX_STEP_S:g}"
        )
    return LatencyGrid(
        model=entry.text("model"),
        system=entry.text("system"),
        backend=entry.text("backend").lower(),
        tp=entry.object("parallel").integer("tp_size", default=1),
        kv_capacity_tokens=entry.integer("kv_capacity_tokens", at_most=MAX_KV_TOKENS)
        if entry.has("kv_capacity_tokens")
        else None,
        source=source,
        points=points,
    )


def _decode_points(decode: JsonObject) -> StepPoints:
    bs, ctx = decode.numbers("bs", at_most=MAX_COUNT), decode.numbers("ctx", at_most=MAX_COUNT)
    latency_ms = decode.numbers("ms", (len(bs), len(ctx)))
    requests, context = (axis.ravel() for axis in np.meshgrid(bs, ctx, indexing="ij"))
    return _points("decode", requests, requests * (context + 1), np.zeros_like(requests), requests, latency_ms)


def _prefill_points(prefill: JsonObject) -> StepPoints:
    isl = prefill.numbers("isl", at_most=MAX_COUNT)
    latency_ms = prefill.numbers("ms", (len(isl),))
    return _points("prefill", isl, isl, isl * (isl + 1) / 2, np.ones_like(isl), latency_ms)


def _mixed_points(mixed: JsonObject) -> StepPoints:
    axes = [mixed.numbers(key, at_most=MAX_COUNT) for key in ("ctx_tokens", "gen_reqs", "gen_ctx")]
    if any(np.any(axis < 1) for axis in (axes[0], axes[2])):
        raise mixed.error("ctx_tokens", "and gen_ctx must be at least 1 token")
    latency_ms = mixed.numbers("ms", (len(axes[0]), len(axes[1]), len(axes[2])))
    chunk, decodes, context = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    prompts = np.where(chunk >= context, np.ceil(chunk / context), 1 / np.ceil(context / chunk))
    pairs = prompts * context * (context + 1) / 2
    prefill_kv = np.where(chunk >= context, prompts * context, (context + chunk) / 2)
    kv = prefill_kv + decodes * (context + MIXED_DECODE_OFFSET)
    # Without decodes the grid repeats the prefill row.
    keep = decodes > 0
    columns = (chunk + decodes, kv, pairs, decodes + np.maximum(prompts, 1), latency_ms.ravel())
    return _points("mixed", *(column[keep] for column in columns))


def _points(
    kind: str,
    tokens: FloatArray,
    kv_tokens: FloatArray,
    attention_pairs: FloatArray,
    sequences: FloatArray,
    latency_ms: FloatArray,
) -> StepPoints:
    duration_s = latency_ms.ravel() / 1000
    return StepPoints(np.full(len(duration_s), kind), tokens, kv_tokens, attention_pairs, sequences, duration_s)
