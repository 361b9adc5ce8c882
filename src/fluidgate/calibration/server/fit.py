"""A step time from what was measured on a running vLLM server."""

from __future__ import annotations

import math
from dataclasses import replace

from fluidgate.calibration import CalibrationReport, calibrate_steps
from fluidgate.calibration.server.iteration_log import IterationLog
from fluidgate.calibration.server.live_load import A_WINDOW, ServerMeasurement
from fluidgate.calibration.server.live_steps import mean_steps
from fluidgate.calibration.server.sweep import Sweep
from fluidgate.calibration.steps import MIN_STEPS
from fluidgate.errors import InputError
from fluidgate.hardware import StepTime

SLOWER = 0.05
"""A robust fit leaves out what other work on the machine adds; a reader should know if it is more than this share."""


def fit(
    sweep: Sweep,
    measured: ServerMeasurement,
    *,
    log: IterationLog | None = None,
    sheet: StepTime | None = None,
) -> CalibrationReport:
    """The step time that fits the measurement.

    Args:
        log: the server's log during the sweep, for single steps.
        sheet: as in `calibrate_steps`.

    Raises:
        InputError: too few steps.
    """
    points = mean_steps(measured.runs) if log is None else log.steps(measured.runs)
    if len(points.duration_s) < MIN_STEPS:
        raise InputError(_too_few(sweep, measured))
    report = calibrate_steps(points, sheet=sheet)
    least, most = measured.step_range()
    token_range = report.calibration.tokens
    calibration = replace(report.calibration, tokens=(min(token_range[0], least), max(token_range[1], most)))
    remarks = (*report.remarks, *_slow_stretches(report), *measured.remarks(sweep))
    return replace(report, calibration=calibration, remarks=remarks)


def _too_few(sweep: Sweep, measured: ServerMeasurement) -> str:
    """What was measured, and a time that should suffice at the pace of this load, half as much again to be safe."""
    windows = {phase.name: measured.windows(phase) for phase in sweep.phases}
    total = sum(windows.values())
    longer = 1.5 * min(MIN_STEPS / max(total, 1), 4.0)
    each = ", ".join(f"{count} in '{name}'" for name, count in windows.items())
    return (
        f"{sweep.time_s:g} s of load gave {total} windows of {A_WINDOW}, where {MIN_STEPS} are the least ({each}); "
        f"give --time-s {math.ceil(longer * sweep.time_s / 60) * 60}"
    )


def _slow_stretches(report: CalibrationReport) -> list[str]:
    longer = float(report.points.duration_s.sum() / report.fitted_s.sum()) - 1
    if longer < SLOWER:
        return []
    return [
        f"steps took {longer:.0%} longer on average than the fit says: the server had slow stretches, which the fit "
        "leaves out, and latencies will be that much longer where it has them again"
    ]
