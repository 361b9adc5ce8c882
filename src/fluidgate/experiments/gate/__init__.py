"""`fluidgate experiment gate`: what the gate is worth, and where it is worth nothing."""

from fluidgate.experiments.gate.page import gate_page
from fluidgate.experiments.gate.study import PARTS, GateResult, Scale, run_gate

__all__ = ["PARTS", "GateResult", "Scale", "gate_page", "run_gate"]
