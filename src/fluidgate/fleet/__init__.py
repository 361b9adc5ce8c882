"""The gate from outside: one queue before several engines that stay as they are."""

from fluidgate.fleet.asked import AskedGate
from fluidgate.fleet.gate import FleetGate
from fluidgate.fleet.replica import Admit, Answer, FleetState, Gauges, Refuse, Replica, ReplicaState, Wait

__all__ = [
    "Admit",
    "Answer",
    "AskedGate",
    "FleetGate",
    "FleetState",
    "Gauges",
    "Refuse",
    "Replica",
    "ReplicaState",
    "Wait",
]
