"""What a calibrated step time's error does to a plan, and whether the plan leaves the range that was measured."""

from __future__ import annotations

import warnings
from dataclasses import astuple, dataclass, replace
from math import hypot

from fluidgate.errors import CalibrationWarning
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.nested import NestedThresholds
from fluidgate.fluid.safety_buffer import SafetyBuffer, safety_buffer
from fluidgate.fluid.stability import Stability
from fluidgate.hardware.core import Hardware, StepTime

Z95 = 1.96


@dataclass(frozen=True)
class PlanUncertainty:
    """95% intervals of a plan's numbers, from the calibration of its step time alone.

    Attributes:
        iteration_time: half-width of the iteration time at the boundary, relative: the coefficients' errors with
            their correlation, and the misfit of the affine form.
        boundary_rate: low and high, requests per second.
        safety_buffer_tokens: low and high of the memory that Nested WAIT needs at the plan's rate; infinite where
            it cannot serve that rate.
    """

    iteration_time: float
    boundary_rate: tuple[float, float]
    safety_buffer_tokens: tuple[float, float]


def plan_uncertainty(
    mix: RequestMix,
    hardware: Hardware,
    limits: Limits,
    stable: Stability,
    nested: NestedThresholds,
    buffer: SafetyBuffer,
) -> PlanUncertainty | None:
    """The intervals; None without a calibration, or where it does not determine the time at the boundary.

    λ_max = x*/ΔT_max and x* does not depend on times, so the ends of ΔT_max's interval are those of λ_max. The buffer
    is computed again with every coefficient longer and shorter by that much.
    """
    calibration = hardware.calibration
    if calibration is None:
        return None
    x = stable.admissions_per_iteration
    per_request = (mix.tokens, mix.kv_token_iterations, mix.attention_pairs, mix.iterations)
    half_width_s = calibration.half_width_s(*(x * mix.mean(part) for part in per_request))
    if half_width_s is None:
        return None
    relative = hypot(half_width_s / stable.iteration_time_s, Z95 * calibration.misfit)
    if relative >= 1.0:
        return None  # the time is unknown
    required = [_required_tokens(1.0 + sign * relative, hardware.step_time, limits, nested, buffer) for sign in (-1, 1)]
    return PlanUncertainty(
        iteration_time=relative,
        boundary_rate=(stable.boundary_rate / (1.0 + relative), stable.boundary_rate / (1.0 - relative)),
        safety_buffer_tokens=(min(required), max(required)),
    )


def warn_if_extrapolated(mix: RequestMix, hardware: Hardware, limits: Limits, stable: Stability) -> None:
    """Warn, for the caller of `plan`, if its steps lie outside the range that the step time was measured in.

    They reach from the mean step at this load to the KV at the boundary and the largest prefill. The message does not
    depend on the load, so that a sweep over loads warns once.
    """
    if hardware.calibration is None:
        return
    x = stable.admissions_per_iteration
    tokens, kv_tokens = x * mix.mean(mix.tokens), x * mix.mean(mix.kv_token_iterations)
    largest = min(limits.batched_tokens, float(mix.prompt_tokens.max()) + stable.residents)
    share = stable.kv_use / stable.kv_use_at_boundary
    beyond = hardware.calibration.outside((share * tokens, max(largest, tokens)), (share * kv_tokens, kv_tokens))
    if beyond is not None:
        message = f"{hardware.name}: the step time is extrapolated: the plan has {beyond}; calibrate with such steps"
        warnings.warn(message, CalibrationWarning, stacklevel=3)


def _required_tokens(
    factor: float, step_time: StepTime, limits: Limits, nested: NestedThresholds, buffer: SafetyBuffer
) -> float:
    """The buffer's memory when all times are `factor` as long."""
    times = StepTime(*(factor * c for c in astuple(step_time)))
    shape = replace(nested.shape, work_s=factor * nested.shape.work_s)
    return safety_buffer(shape, buffer.rate, times, limits, buffer.guarantee).required_tokens
