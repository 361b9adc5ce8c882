"""The largest stable arrival rate of a policy, by simulation, next to the fluid boundary."""

from fluidgate.runs.frontier.axes import AXES, Setting
from fluidgate.runs.frontier.drift import WorkLeft, with_backlog, work_left
from fluidgate.runs.frontier.search import Trial
from fluidgate.runs.frontier.sequential import Decision, Rule, bisect, decide, until_decided
from fluidgate.runs.frontier.study import FRONTIER_POLICIES, Frontier, StableRate, frontier

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
