"""`simulate` against `emulate` (vLLM's own scheduler) on the same 2,000 requests: equal results, ratio of times.

make bench-parity     or, where vLLM is installed: python benchmarks/parity.py [trace]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from fluidgate import EngineConfig, generate, read_trace
from fluidgate.engine import RunRecords
from fluidgate.hardware import load_profile
from fluidgate.policies import make_policy
from fluidgate.runs import plan_for, simulate
from fluidgate.serving import emulate

TRACE = Path(__file__).parents[2] / "shared" / "traces" / "AzureLLMInferenceTrace_conv.csv"
STEPS = (
    "start_s",
    "end_s",
    "scheduled",
    "tokens",
    "running",
    "waiting",
    "free_blocks",
    "preempted",
    "batch",
    "victims",
)


def same_steps(one: RunRecords, other: RunRecords) -> bool:
    """Every batch, victim, free block and time of every step."""
    return all(np.array_equal(getattr(one.steps, name), getattr(other.steps, name)) for name in STEPS)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TRACE
    workload = read_trace(path)[0] if path.exists() else generate("azure-conv-2023", n=2000)
    workload = workload.take(slice(0, 2000)).scaled(1.2)
    hardware, config = load_profile("llama-2-7b", "a100-80gb"), EngineConfig()
    print(f"2,000 requests of {workload.name} on {hardware.name}")
    for name in ("greedy", "watermark", "wait"):
        policy = make_policy(name, plan_for(workload, hardware, config))
        simulated = simulate(workload, hardware, policy, config=config, record="decisions")
        times = []
        for _ in range(5):
            start = time.perf_counter()
            simulate(workload, hardware, policy, config=config)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        emulated = emulate(workload, hardware, policy, config=config, record="decisions")
        emulate_s, simulate_s = time.perf_counter() - start, median(times)
        print(
            f"{name:10s} {simulated.iterations:,} steps, {simulated.preemptions.sum():,} preemptions, "
            f"{'equal' if same_steps(simulated, emulated) else 'DIFFERENT'}: simulate {simulate_s:.4f} s, "
            f"emulate {emulate_s:.1f} s, {emulate_s / simulate_s:,.0f} times as long"
        )


if __name__ == "__main__":
    main()
