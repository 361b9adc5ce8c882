"""The fluid model: equilibrium, stability, thresholds and safety buffer, and the plan made of them."""

from fluidgate.fluid.equilibrium import Equilibrium, equilibrium
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import MixClasses, OutputLaw, RequestMix
from fluidgate.fluid.nested import NestedShape, NestedThresholds, nested_shape, nested_thresholds
from fluidgate.fluid.plan import FluidPlan, MixSummary, plan
from fluidgate.fluid.safety_buffer import (
    Guarantee,
    SafetyBuffer,
    best_nested,
    decay_rate,
    largest_guaranteed_rate,
    safety_buffer,
)
from fluidgate.fluid.segments import PromptBound, Segments, cut_points, segments
from fluidgate.fluid.stability import Stability, TimeShares, stability
from fluidgate.fluid.thresholds import WaitThresholds, length_edges, wait_thresholds

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
    "PromptBound",
    "RequestMix",
    "SafetyBuffer",
    "Segments",
    "Stability",
    "TimeShares",
    "WaitThresholds",
    "best_nested",
    "cut_points",
    "decay_rate",
    "equilibrium",
    "largest_guaranteed_rate",
    "length_edges",
    "nested_shape",
    "nested_thresholds",
    "plan",
    "safety_buffer",
    "segments",
    "stability",
    "wait_thresholds",
]
