"""One knob of a setup against the outcome, on the same requests for every value."""

from fluidgate.runs.whatif.knobs import KNOBS, Knob, Value, split_values, values_of, workable_machine
from fluidgate.runs.whatif.setup import MachineSpec, Setup
from fluidgate.runs.whatif.study import Point, WhatIf, whatif

__all__ = [
    "KNOBS",
    "Knob",
    "MachineSpec",
    "Point",
    "Setup",
    "Value",
    "WhatIf",
    "split_values",
    "values_of",
    "whatif",
    "workable_machine",
]
