"""A machine with the step times of Vidur's profile files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fluidgate.calibration.aiconfigurator import QueriedHardware
from fluidgate.calibration.vidur_grid import VidurSteps
from fluidgate.calibration.vidur_profile import MS_PER_S, read_vidur_profile
from fluidgate.errors import InputError
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.fit import fit_step_grid
from fluidgate.hardware.gpus import Gpu
from fluidgate.hardware.lookup import Serving, estimate_hardware
from fluidgate.hardware.model_config import ModelShape
from fluidgate.hardware.server_defaults import FALLBACK_BATCHED_TOKENS, FALLBACK_SEQS, ServerDefaults
from fluidgate.hardware.step_grid import StepGrid

FASTEST, SLOWEST = 0.5, 30.0
"""A step of one token over the time to read the weights: beyond, the times are not milliseconds, or of another GPU."""


def calibrate_vidur(
    mlp: Path | str,
    attention: Path | str,
    shape: ModelShape,
    gpu: Gpu,
    serving: Serving | None = None,
    all_reduce: Path | str | None = None,
) -> QueriedHardware:
    """A machine with Vidur's step times, as a grid, and the KV blocks that are given or that its memory leaves.

    The points of the result are the measured ones: decodes alone, and one prompt's chunk alone.

    Args:
        mlp, attention, all_reduce: profile files; the last one for tensor parallelism.
        shape: the model that they are of.
        gpu: the GPU that they were measured on, which the files do not name.
        serving: tensor parallelism and KV cache; None: one GPU.

    Raises:
        InputError: see `read_vidur_profile`; also pipeline stages, or times that this GPU cannot have.
    """
    serving = serving or Serving()
    if serving.pp > 1:
        raise InputError("Vidur's profiles are of one pipeline stage; leave pp (--pp) out")
    estimate = estimate_hardware(shape, gpu, serving)
    mlp, attention, all_reduce = Path(mlp), Path(attention), None if all_reduce is None else Path(all_reduce)
    profile = read_vidur_profile(
        mlp, attention, shape, tp=serving.tp, block_size=serving.block_size, all_reduce=all_reduce
    )
    steps = VidurSteps(profile, shape)
    _refuse_other_units(mlp, steps.shared_ms(1.0), shape, gpu, serving.tp)
    grid = steps.grid()
    step_time, report = fit_step_grid(grid, estimate.kv_capacity_tokens)
    files = ", ".join(path.name for path in (mlp, attention, all_reduce) if path is not None)
    given = "; num_gpu_blocks as given" if serving.num_gpu_blocks is not None else ""
    hardware = replace(
        estimate,
        name=f"{shape.name} on {f'{serving.tp} × ' if serving.tp > 1 else ''}{gpu.name} (vidur)",
        step_time=step_time,
        grid=grid,
        relative_error=report.mean_error,
        source=f"Vidur's profile ({files}): the GPU's time, without embedding, output head and the CPU's work{given}",
        server=_within(estimate, grid),
    )
    points, interpolated_s = steps.measured_steps(grid)
    return QueriedHardware(hardware, points, interpolated_s)


def _within(hardware: Hardware, grid: StepGrid) -> ServerDefaults:
    """What the server sets by itself, as far as the grid reaches."""
    own = hardware.server
    return ServerDefaults(
        max_num_seqs=min(own.max_num_seqs or FALLBACK_SEQS, grid.max_decodes),
        max_num_batched_tokens=min(own.max_num_batched_tokens or FALLBACK_BATCHED_TOKENS, grid.max_tokens),
        max_model_len=min(own.max_model_len or grid.max_context, grid.max_context),
    )


def _refuse_other_units(mlp: Path, step_ms: float, shape: ModelShape, gpu: Gpu, tp: int) -> None:
    """Times that are not milliseconds, or of another GPU: the weights must be read in every step."""
    read_ms = shape.layer_bytes / tp / (gpu.hbm_gb_per_s * 1e9) * MS_PER_S
    if not FASTEST * read_ms <= step_ms <= SLOWEST * read_ms:
        raise InputError(
            f"{mlp}: one token takes {step_ms:.3g} ms, and {gpu.name} reads the weights of {shape.name} in "
            f"{read_ms:.3g} ms: give Vidur's own file, whose times are milliseconds, and the GPU that it is of"
        )
