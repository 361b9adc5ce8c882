"""A fleet over the day: replicas by the hour and their cost, and rules that scale it, as simulated autoscaling."""

from fluidgate.runs.scaling.autoscaler import Autoscaler, Limits
from fluidgate.runs.scaling.held import HeldLoad, held_load
from fluidgate.runs.scaling.hourly import Day, HourlyFleet, Level, bucket_of, hourly
from fluidgate.runs.scaling.rules import Asked, Boundary, InFlight, KvUse, Line, Queue, ScalingRule

__all__ = [
    "Asked",
    "Autoscaler",
    "Boundary",
    "Day",
    "HeldLoad",
    "HourlyFleet",
    "InFlight",
    "KvUse",
    "Level",
    "Limits",
    "Line",
    "Queue",
    "ScalingRule",
    "bucket_of",
    "held_load",
    "hourly",
]
