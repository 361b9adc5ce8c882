"""vLLM: the emulator, which runs its real scheduler on virtual time (extra `[vllm]`)."""

from fluidgate.serving.emulator import emulate

__all__ = ["emulate"]
