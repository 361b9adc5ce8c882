"""The cheapest fleet that keeps a promise: candidates, bounds, a search by machine, and the proof."""

from fluidgate.runs.size.answer import Break, Cheaper, Nearest, Option, Proof, Sizing, fleet_label
from fluidgate.runs.size.candidates import Choices, Flags, Machine, machines_of
from fluidgate.runs.size.search import Count, Found
from fluidgate.runs.size.study import size
from fluidgate.runs.size.trials import Certainty, Outcome

__all__ = [
    "Break",
    "Certainty",
    "Cheaper",
    "Choices",
    "Count",
    "Flags",
    "Found",
    "Machine",
    "Nearest",
    "Option",
    "Outcome",
    "Proof",
    "Sizing",
    "fleet_label",
    "machines_of",
    "size",
]
