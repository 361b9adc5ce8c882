"""The largest stable arrival rate of a policy, by simulation, next to the fluid boundary."""

from fluidgate.runs.frontier.axes import AXES, Setting
from fluidgate.runs.frontier.drift import WorkLeft, with_backlog, work_left
from fluidgate.runs.frontier.search import Source, Trial, identity
from fluidgate.runs.frontier.sequential import (
    FIRST_LOOK,
    Decision,
    Rule,
    bisect,
    check_test,
    decide,
    decide_all,
    looks_up_to,
    until_decided,
)
from fluidgate.runs.frontier.study import FRONTIER_POLICIES, Frontier, StableRate, frontier

__all__ = [
    "AXES",
    "FIRST_LOOK",
    "FRONTIER_POLICIES",
    "Decision",
    "Frontier",
    "Rule",
    "Setting",
    "Source",
    "StableRate",
    "Trial",
    "WorkLeft",
    "bisect",
    "check_test",
    "decide",
    "decide_all",
    "frontier",
    "identity",
    "looks_up_to",
    "until_decided",
    "with_backlog",
    "work_left",
]
