"""Requests: arrival times, lengths, classes, shared prefixes; where they come from."""

from fluidgate.workload.arrivals import MMPP2, AllAtOnce, ArrivalProcess, BenchArrivals, Cox, Gamma, Poisson
from fluidgate.workload.conversations import Conversation
from fluidgate.workload.core import Workload
from fluidgate.workload.formats import (
    FORMATS,
    detect_format,
    read_results,
    read_trace,
    write_mooncake,
    write_vidur,
)
from fluidgate.workload.lengths import (
    Discrete,
    Empirical,
    Fixed,
    Independent,
    JointLengths,
    JointMixture,
    Lengths,
    LognormalMixture,
    Types,
    max_entropy,
    survival,
)
from fluidgate.workload.logs import parse_columns
from fluidgate.workload.patience import Patience, TimeoutLaw, parse_timeout
from fluidgate.workload.presets import PRESETS, Synthetic, generate
from fluidgate.workload.resample import resample
from fluidgate.workload.summary import MIN_WINDOWS, dispersion, info
from fluidgate.workload.timings import MeasuredRun, Timings

__all__ = [
    "FORMATS",
    "MIN_WINDOWS",
    "MMPP2",
    "PRESETS",
    "AllAtOnce",
    "ArrivalProcess",
    "BenchArrivals",
    "Conversation",
    "Cox",
    "Discrete",
    "Empirical",
    "Fixed",
    "Gamma",
    "Independent",
    "JointLengths",
    "JointMixture",
    "Lengths",
    "LognormalMixture",
    "MeasuredRun",
    "Patience",
    "Poisson",
    "Synthetic",
    "TimeoutLaw",
    "Timings",
    "Types",
    "Workload",
    "detect_format",
    "dispersion",
    "generate",
    "info",
    "max_entropy",
    "parse_columns",
    "parse_timeout",
    "read_results",
    "read_trace",
    "resample",
    "survival",
    "write_mooncake",
    "write_vidur",
]
