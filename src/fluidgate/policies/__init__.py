"""Who may enter, and when: the policy protocol, the registry, and one file per policy."""

from fluidgate.policies.a_min import AMin
from fluidgate.policies.codel import Codel
from fluidgate.policies.concurrency_cap import ConcurrencyCap
from fluidgate.policies.expected_completions import ExpectedCompletions
from fluidgate.policies.fluid import Fluid
from fluidgate.policies.fluid_volume import FluidVolume
from fluidgate.policies.greedy import Greedy
from fluidgate.policies.interval import Interval
from fluidgate.policies.known_deadlines import KnownDeadlines
from fluidgate.policies.known_lengths import KnownLengths
from fluidgate.policies.lifo import Lifo
from fluidgate.policies.max_utilization import MaxUtilization
from fluidgate.policies.mc_sf import McSf
from fluidgate.policies.nested_wait import NestedWait
from fluidgate.policies.no_evict import NoEvict
from fluidgate.policies.past_future import PastFuture
from fluidgate.policies.protocol import (
    ABORTED,
    ADMITTED,
    ARRIVED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    SHED,
    Event,
    Policy,
    Request,
    View,
)
from fluidgate.policies.queue_cap import QueueCap
from fluidgate.policies.rate_limited import RateLimited
from fluidgate.policies.registry import load_policy_file, make_policy, policy, policy_class, policy_names
from fluidgate.policies.sglang import SGLang
from fluidgate.policies.shortest_first import ShortestFirst
from fluidgate.policies.smallest_volume_first import SmallestVolumeFirst
from fluidgate.policies.wait import Wait
from fluidgate.policies.watermark import Watermark

__all__ = [
    "ABORTED",
    "ADMITTED",
    "ARRIVED",
    "FINISHED",
    "FIRST_TOKEN",
    "PREEMPTED",
    "SHED",
    "AMin",
    "Codel",
    "ConcurrencyCap",
    "Event",
    "ExpectedCompletions",
    "Fluid",
    "FluidVolume",
    "Greedy",
    "Interval",
    "KnownDeadlines",
    "KnownLengths",
    "Lifo",
    "MaxUtilization",
    "McSf",
    "NestedWait",
    "NoEvict",
    "PastFuture",
    "Policy",
    "QueueCap",
    "RateLimited",
    "Request",
    "SGLang",
    "ShortestFirst",
    "SmallestVolumeFirst",
    "View",
    "Wait",
    "Watermark",
    "load_policy_file",
    "make_policy",
    "policy",
    "policy_class",
    "policy_names",
]
