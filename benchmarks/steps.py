"""What a step costs, by the number of residents and by the number of waiting requests.

    make bench            or: python benchmarks/steps.py

Processor time of a long run less that of a short one with the same requests, so that setting up is left out (where
requests come and go, it is in). Each is the least of several runs, for the work is the same and all above the least is
disturbance. The rows take turns, and ratios compare rows of one round. The aims: a step at 1,024 residents costs at
most twice one at 16, and one with a million waiting as much as one with ten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from fluidgate import EngineConfig, Workload
from fluidgate.engine import RunRecords, run
from fluidgate.hardware import load_profile
from fluidgate.policies import ConcurrencyCap, Greedy, Policy

HARDWARE = load_profile("llama-2-7b", "a100-80gb")
CONSOLE = Console(width=120)
ROUNDS = 3
SHORT_TOKENS = 100
BUSY_TURNS = 80  # requests per seat where requests end all the time


def least_cpu_s(what: Callable[[], RunRecords], runs: int) -> tuple[float, int]:
    """Least processor time of several runs, seconds, and the number of steps."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        steps = what().iterations
        seconds.append(time.process_time() - start)
    return min(seconds), steps


def quiet_step_s(residents: int, waiting: int, tokens: int, policy: Policy, runs: int = 5) -> float:
    """Seconds per step while `residents` decode and `waiting` others have no seat.

    Prompts have all lengths modulo the block size, so that some residents need a block in every step.
    """
    hardware = replace(HARDWARE, num_gpu_blocks=residents * (tokens // 16 + 4))
    seats = residents if isinstance(policy, Greedy) else 2 * residents
    config = EngineConfig(max_num_seqs=seats, max_num_batched_tokens=32 * residents)
    prompts = np.concatenate((16 + np.arange(residents) % 16, np.ones(waiting, np.int64)))

    def of(output: int) -> tuple[float, int]:
        outputs = np.concatenate((np.full(residents, output), np.ones(waiting, np.int64)))
        workload = Workload(np.zeros(residents + waiting), prompts, outputs)
        return least_cpu_s(lambda: run(workload, hardware, policy, config), runs)

    (short_s, short_steps), (long_s, long_steps) = of(SHORT_TOKENS), of(tokens)
    return (long_s - short_s) / (long_steps - short_steps)


def busy_step_s(residents: int) -> float:
    """Seconds per step while a request ends, and another takes its place, about once in 1,000 tokens."""
    count = BUSY_TURNS * residents
    outputs = np.random.default_rng(0).integers(1, 2000, count)
    hardware = replace(HARDWARE, num_gpu_blocks=residents * (2100 // 16 + 4))
    config = EngineConfig(max_num_seqs=residents, max_num_batched_tokens=32 * residents)
    workload = Workload(np.zeros(count), np.full(count, 16), outputs)
    seconds, steps = least_cpu_s(lambda: run(workload, hardware, Greedy(), config), 3)
    return seconds / steps


def show(title: str, label: str, cases: dict[int, Callable[[], float]]) -> None:
    """One row per case, which take turns."""
    times: dict[int, list[float]] = {shown: [] for shown in cases}
    next(iter(cases.values()))()  # compiled before the clock starts
    for _ in range(ROUNDS):
        for shown, case in cases.items():
            times[shown].append(case())
    first = next(iter(cases))
    table = Table(title=title)
    for column in (label, "µs per step", f"÷ that at {first} (min to max)"):
        table.add_column(column, justify="right")
    for shown, own in times.items():
        ratios = [a / b for a, b in zip(own, times[first], strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(f"{shown:,}", f"{1e6 * median(own):.3f}", ratio)
    CONSOLE.print(table)


def main() -> None:
    """Quiet and busy steps against the batch, quiet steps against the queue."""
    batches, queues = (16, 64, 256, 1024), (10, 10_000, 1_000_000)
    quiet = {n: lambda n=n: quiet_step_s(n, 0, 200_000, Greedy()) for n in batches}
    show("A decode step in which nothing begins or ends, against the batch", "residents", quiet)
    busy = {n: lambda n=n: busy_step_s(n) for n in batches}
    show("A step where every resident is replaced after 1,000 tokens, against the batch", "residents", busy)
    greedy = {n: lambda n=n: quiet_step_s(2, n, 10_000_000, Greedy(), 3) for n in queues}
    show("A step against the queue, greedy", "waiting", greedy)
    cap = {n: lambda n=n: quiet_step_s(2, n, 2_000_000, ConcurrencyCap(2.0), 3) for n in queues}
    show("A step against the queue, concurrency-cap", "waiting", cap)


if __name__ == "__main__":
    main()
