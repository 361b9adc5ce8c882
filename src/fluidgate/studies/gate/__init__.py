"""`fluidgate experiment gate`: what the gate is worth, and where it is worth nothing."""

from fluidgate.studies.gate.curves import write_curves
from fluidgate.studies.gate.page import gate_page
from fluidgate.studies.gate.study import PARTS, GateResult, Scale, run_gate

__all__ = ["PARTS", "GateResult", "Scale", "gate_page", "run_gate", "write_curves"]
