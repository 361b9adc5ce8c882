"""The largest stable arrival rate of a policy, by simulation, next to the fluid boundary."""

from fluidgate.experiments.stable_rate.axes import AXES, Setting
from fluidgate.experiments.stable_rate.drift import WorkLeft, with_backlog, work_left
from fluidgate.experiments.stable_rate.search import Trial
from fluidgate.experiments.stable_rate.sequential import Decision, Rule, bisect, decide, until_decided
from fluidgate.experiments.stable_rate.study import FRONTIER_POLICIES, Frontier, StableRate, frontier

__all__ = [
    "AXES",
    "FRONTIER_POLICIES",
    "Decision",
    "Frontier",
    "Rule",
    "Setting",
    "StableRate",
    "Trial",
    "WorkLeft",
    "bisect",
    "decide",
    "frontier",
    "until_decided",
    "with_backlog",
    "work_left",
]
