"""vLLM: the emulator, which runs its real scheduler on virtual time, how to compare runs, and plan files, which carry a
policy to a server."""

from fluidgate.serving.emulator import emulate
from fluidgate.serving.flags import Flag, serve_command, serve_flags
from fluidgate.serving.parity import explain, first_difference
from fluidgate.serving.plan_sections import ServedModel
from fluidgate.serving.planfile import PlanFile

__all__ = [
    "Flag",
    "PlanFile",
    "ServedModel",
    "emulate",
    "explain",
    "first_difference",
    "serve_command",
    "serve_flags",
]
