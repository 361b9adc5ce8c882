"""`--overhead`: whether latencies hold what a request takes outside the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli.options import HardwareOptions, say

if TYPE_CHECKING:
    from fluidgate.hardware import Hardware

Overhead = Annotated[
    bool,
    typer.Option(
        "--overhead/--no-overhead",
        help="Add to TTFT and E2E latency what the hardware file says that HTTP and the tokeniser take.",
        rich_help_panel="Hardware",
    ),
]


def load_with(overhead: bool, options: HardwareOptions) -> Hardware:
    """The hardware, with its overhead, which a remark states, or without it."""
    hardware = options.load()
    if not overhead:
        return replace(hardware, overhead_s=0.0)
    if hardware.overhead_s:
        outside = f"{1e3 * hardware.overhead_s:.3g} ms outside the engine"
        say(f"TTFT and E2E latency include {outside}, as the hardware file states; --no-overhead leaves them out")
    return hardware
