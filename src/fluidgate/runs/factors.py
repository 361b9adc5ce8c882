"""What a factor does to a machine's memory and to the lengths of requests, for whatever varies them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.bounds import above_zero
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.workload import Workload


def factor(what: str, value: str) -> float:
    """A factor from its text; `what` names it in the refusal."""
    return above_zero(value, f"{what} value {value!r} must be a finite factor above 0, such as 0.5")


def with_memory(hardware: Hardware, times: float) -> Hardware:
    """The same machine with so many times the KV blocks; the null block is no memory."""
    return replace(hardware, num_gpu_blocks=round(times * (hardware.num_gpu_blocks - 1)) + 1)


def with_lengths(workload: Workload, *, prompt: float = 1.0, output: float = 1.0) -> Workload:
    """The same requests with lengths times these factors, to whole tokens, at least one.

    Raises:
        InputError: prompts are to change whose content is known, by shared prefixes or by what a session said before.
    """
    if prompt != 1.0 and (workload.has_sessions or len(workload.prefix_ids)):
        raise InputError(
            f"{workload.name}: its prompts share content with others, so their lengths cannot be multiplied; give "
            "requests without sessions and prefixes"
        )
    if prompt == output == 1.0:
        return workload
    return replace(
        workload,
        prompt_tokens=_times(workload.prompt_tokens, prompt),
        output_tokens=_times(workload.output_tokens, output),
    )


def _times(tokens: IntArray, by: float) -> IntArray:
    return np.asarray(np.maximum(1, np.rint(tokens * by)), np.int64)
