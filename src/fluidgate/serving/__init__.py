"""vLLM: the emulator, which runs its real scheduler on virtual time (extra `[vllm]`), and how to compare runs."""

from fluidgate.serving.emulator import emulate
from fluidgate.serving.parity import explain, first_difference

__all__ = ["emulate", "explain", "first_difference"]
