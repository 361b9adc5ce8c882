"""The fluid model: equilibrium, stability, thresholds and safety buffer, and the plan made of them."""

from fluidgate.fluid.affine import affine_step_time
from fluidgate.fluid.bursts import Burstiness
from fluidgate.fluid.deadlines import Deadlines, ServedShare, deadlines, in_time
from fluidgate.fluid.equilibrium import Equilibrium, equilibrium
from fluidgate.fluid.interval import PrefillInterval, prefill_interval
from fluidgate.fluid.kv_pool import plain_blocks
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import MixClasses, OutputLaw, RequestMix
from fluidgate.fluid.nested import NestedShape, NestedThresholds, nested_shape, nested_thresholds
from fluidgate.fluid.plan import FluidPlan, MixSummary, plan
from fluidgate.fluid.refused import RefusedShares
from fluidgate.fluid.safety_buffer import (
    Guarantee,
    SafetyBuffer,
    best_nested,
    decay_rate,
    largest_guaranteed_rate,
    safety_buffer,
)
from fluidgate.fluid.segments import PromptBound, Segments, cut_points, segments
from fluidgate.fluid.stability import Stability, TimeShares, bound_seconds, stability
from fluidgate.fluid.stages import residents_by_stage, stage_edges
from fluidgate.fluid.thresholds import WaitThresholds, length_edges, wait_thresholds
from fluidgate.fluid.uncertainty import PlanUncertainty
from fluidgate.fluid.wait_ahead import WaitAhead, wait_ahead
from fluidgate.fluid.whole_nested import WholeNestedThresholds, whole_nested_thresholds

__all__ = [
    "Burstiness",
    "Deadlines",
    "Equilibrium",
    "FluidPlan",
    "Guarantee",
    "Limits",
    "MixClasses",
    "MixSummary",
    "NestedShape",
    "NestedThresholds",
    "OutputLaw",
    "PlanUncertainty",
    "PrefillInterval",
    "PromptBound",
    "RefusedShares",
    "RequestMix",
    "SafetyBuffer",
    "Segments",
    "ServedShare",
    "Stability",
    "TimeShares",
    "WaitAhead",
    "WaitThresholds",
    "WholeNestedThresholds",
    "affine_step_time",
    "best_nested",
    "bound_seconds",
    "cut_points",
    "deadlines",
    "decay_rate",
    "equilibrium",
    "in_time",
    "largest_guaranteed_rate",
    "length_edges",
    "nested_shape",
    "nested_thresholds",
    "plain_blocks",
    "plan",
    "prefill_interval",
    "residents_by_stage",
    "safety_buffer",
    "segments",
    "stability",
    "stage_edges",
    "wait_ahead",
    "wait_thresholds",
    "whole_nested_thresholds",
]
