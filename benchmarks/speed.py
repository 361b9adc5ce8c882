"""How fast the simulator is, beside its interpreted self and a pip-installable peer, in one run.

    make bench            or: python benchmarks/speed.py [AzureLLMInferenceTrace_conv.csv]

Every row is the median of several runs on one core; ratios compare rows of the same run. Without a trace file the
workload is the built-in fit of the same trace.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from fluidgate import EngineConfig, Hardware, Workload, generate, read_trace
from fluidgate.engine import run
from fluidgate.hardware import StepGrid, load_profile
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.policies import Greedy

TRACE = Path(__file__).parents[2] / "shared" / "traces" / "AzureLLMInferenceTrace_conv.csv"
HARDWARE = load_profile("llama-2-7b", "a100-80gb")
PEERS_HARDWARE = load_profile("llama-3.1-8b", "a100-80gb")  # the peer's A100 preset serves an 8B model too
CONSOLE = Console(width=120)


def timed(what: Callable[[], object], runs: int = 5) -> float:
    """Median wall time in seconds, after one run that is not counted."""
    what()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        what()
        times.append(time.perf_counter() - start)
    return median(times)


def azure_conversation(path: Path) -> Workload:
    """The trace, or the built-in fit of it."""
    if path.exists():
        return read_trace(path)[0]
    CONSOLE.print(f"{path} is not here: using the preset azure-conv-2023, 19,366 requests")
    return generate("azure-conv-2023", n=19_366)


@dataclass(frozen=True)
class Speed:
    """One engine on one workload."""

    requests_per_s: float
    steps_per_s: float
    mean_batch: float


def ours(workload: Workload, seats: int = 256, *, hardware: Hardware = HARDWARE, compile: bool = True) -> Speed:
    """The simulator, greedy, in mode vllm."""
    config = EngineConfig(max_num_seqs=seats)
    seconds = timed(lambda: run(workload, hardware, Greedy(), config, compile=compile), 5 if compile else 1)
    records = run(workload, hardware, Greedy(), config)
    token_steps = int(records.generated_tokens.sum())
    return Speed(len(workload) / seconds, records.iterations / seconds, token_steps / records.iterations)


def peer(workload: Workload) -> Speed:
    """sched-sim's chunked-prefill scheduler on the same requests, on its own A100 preset."""
    from sched_sim.core.event_engine import Simulator
    from sched_sim.core.request import Request
    from sched_sim.hardware.presets import PRESETS
    from sched_sim.schedulers.factory import create_scheduler

    hardware = PRESETS["a100"]
    columns = zip(workload.arrival_s, workload.prompt_tokens, workload.output_tokens, strict=True)
    requests = [
        Request(request_id=str(i), arrived_at=float(at), prompt_tokens=int(prompt), output_tokens=int(output))
        for i, (at, prompt, output) in enumerate(columns)
    ]
    simulator = Simulator(hardware, create_scheduler("chunked", hardware, token_budget=2048, max_batch_size=256))
    simulator.submit_workload(requests)
    start = time.perf_counter()
    simulator.run()
    seconds = time.perf_counter() - start
    batches = simulator.iteration_batch_sizes
    return Speed(len(workload) / seconds, len(batches) / seconds, sum(batches) / len(batches))


def throughput(trace: Workload) -> None:
    """Requests and steps per second on the trace: compiled, interpreted, and the peer."""
    part = trace.take(slice(0, 5000))
    rows = {
        ("compiled, whole trace", "16"): ours(trace, 16),
        ("compiled, whole trace", "64"): ours(trace, 64),
        ("compiled, whole trace", "256"): ours(trace),
        ("compiled, 5,000 requests", "256"): ours(part, hardware=PEERS_HARDWARE),
        ("interpreted, 5,000 requests", "256"): ours(part, hardware=PEERS_HARDWARE, compile=False),
        ("sched-sim, 5,000 requests", "256"): peer(part),
        ("compiled, 5,000 requests at 3 × the rate", "256"): ours(part.scaled(3), hardware=PEERS_HARDWARE),
        ("sched-sim, 5,000 requests at 3 × the rate", "256"): peer(part.scaled(3)),
    }
    table = Table(title="Azure conversation trace, one core")
    for column in ("engine", "seats", "mean batch", "requests/s", "steps/s", "ns per request and step"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for (name, seats), speed in rows.items():
        nanoseconds = 1e9 / speed.steps_per_s / speed.mean_batch
        cells = (f"{speed.mean_batch:.1f}", f"{speed.requests_per_s:,.0f}", f"{speed.steps_per_s:,.0f}")
        table.add_row(name, seats, *cells, f"{nanoseconds:,.1f}")
    CONSOLE.print(table)
    for load in ("5,000 requests", "5,000 requests at 3 × the rate"):
        ratio = rows[f"compiled, {load}", "256"].steps_per_s / rows[f"sched-sim, {load}", "256"].steps_per_s
        CONSOLE.print(f"steps/s, compiled ÷ sched-sim, {load}: {ratio:,.0f}")
    compiled, interpreted = (rows[f"{engine}, 5,000 requests", "256"] for engine in ("compiled", "interpreted"))
    CONSOLE.print(f"steps/s, compiled ÷ interpreted: {compiled.steps_per_s / interpreted.steps_per_s:,.0f}")


def as_tables(hardware: Hardware) -> Hardware:
    """The same machine with its four terms tabulated, so that both take the same steps."""
    t = hardware.step_time
    n, c = np.meshgrid(knots_to(1024), knots_to(16384), indexing="ij")
    p, q = np.meshgrid(knots_to(8192), knots_to(16384), indexing="ij")
    shared_s = t.c0 + t.c_tok * knots_to(9216, TOKEN_KNOTS_PER_OCTAVE)
    decode_kv_s, prefill_s = t.c_kv * n * c, t.c_kv * p + t.c_attn * p * q
    tables = StepGrid(t.c0 + t.c_tok * n + decode_kv_s, decode_kv_s, shared_s, prefill_s, t.c_seq)
    return replace(hardware, grid=tables)


def grid_cost(trace: Workload) -> None:
    """Time of a run whose step times are tables against one whose step times are four terms, alternating."""
    table = Table(title="Step times from a grid against four terms, whole trace")
    for column in ("seats", "µs per step, four terms", "µs per step, grid", "ratio"):
        table.add_column(column, justify="right")
    for seats in (16, 64, 256):
        config = EngineConfig(max_num_seqs=seats)
        machines = (HARDWARE, as_tables(HARDWARE))
        per_step: list[list[float]] = [[], []]
        for _ in range(9):
            for machine, times in zip(machines, per_step, strict=True):
                start = time.perf_counter()
                records = run(trace, machine, Greedy(), config)
                times.append((time.perf_counter() - start) / records.iterations)
        four, grid = (median(times[1:]) for times in per_step)
        table.add_row(str(seats), f"{1e6 * four:.2f}", f"{1e6 * grid:.2f}", f"{grid / four:.3f}")
    CONSOLE.print(table)


def command_line() -> None:
    """Seconds from command to table on the demo's workload, with a warm cache and with an empty one."""
    command = [str(Path(sys.executable).with_name("fluidgate")), "compare", "--load", "0.9", "--load", "1.1"]

    def call(**environment: str) -> None:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)

    CONSOLE.print(
        f"from command to table, warm cache: {timed(call, 3):.2f} s   ({' '.join(['fluidgate', *command[1:]])})"
    )
    with tempfile.TemporaryDirectory() as empty:
        start = time.perf_counter()
        call(FLUIDGATE_CACHE_DIR=empty)
        CONSOLE.print(f"the same with an empty cache, compilation included: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    conversation = azure_conversation(Path(sys.argv[1]) if len(sys.argv) > 1 else TRACE)
    throughput(conversation)
    grid_cost(conversation)
    command_line()
