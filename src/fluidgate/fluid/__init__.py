"""The fluid model: equilibrium, stability, thresholds and safety buffer, and the plan made of them."""

from fluidgate.fluid.affine import affine_step_time
from fluidgate.fluid.equilibrium import Equilibrium, equilibrium
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

__all__ = [
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
    "PromptBound",
    "RefusedShares",
    "RequestMix",
    "SafetyBuffer",
    "Segments",
    "Stability",
    "TimeShares",
    "WaitThresholds",
    "affine_step_time",
    "best_nested",
    "bound_seconds",
    "cut_points",
    "decay_rate",
    "equilibrium",
    "largest_guaranteed_rate",
    "length_edges",
    "nested_shape",
    "nested_thresholds",
    "plan",
    "residents_by_stage",
    "safety_buffer",
    "segments",
    "stability",
    "stage_edges",
    "wait_thresholds",
]
