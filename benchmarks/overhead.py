"""What the gate adds to a step of vLLM's scheduler, by residents and by requests waiting.

    make bench-overhead   or, where vLLM is installed: python benchmarks/overhead.py

Both are timed in the same steps of the same run: the whole of `GateScheduler.schedule`, and vLLM's own `schedule`
inside it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from vllm.v1.core.sched.scheduler import Scheduler

from fluidgate import EngineConfig, Hardware, StepTime, generate
from fluidgate.policies import make_policy
from fluidgate.runs import plan_for
from fluidgate.serving import vllm_core
from fluidgate.serving.planfile import PlanFile
from fluidgate.serving.scheduler import GateScheduler

STEPS = 100
PROMPT, OUTPUT = 32, 4000

vllms_own: list[float] = []
_schedule = Scheduler.schedule


def _timed_schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
    start = time.perf_counter()
    try:
        return _schedule(self, *args, **kwargs)
    finally:
        vllms_own.append(time.perf_counter() - start)


def step_times(policy: str, residents: int, waiting: int) -> tuple[float, float]:
    """Median seconds per step of (vLLM's own schedule, our part)."""
    hardware = Hardware("overhead", StepTime(0.01), residents * (OUTPUT // 16 + 8))
    config = EngineConfig(max_num_seqs=residents, max_num_batched_tokens=max(2048, residents * PROMPT))
    mix = generate("three-types", n=500, rate=1, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        plan = plan_for(mix, hardware, config)
        PlanFile.of(plan, make_policy(policy, plan), config).save(path)
        os.environ["FLUIDGATE_PLAN"] = str(path)
        scheduler = vllm_core.new_scheduler(hardware, config, config.token_budget(0), GateScheduler)
    for row in range(residents + waiting):
        prompt = list(range(row * PROMPT, (row + 1) * PROMPT))
        scheduler.add_request(vllm_core.new_request(row, 0.0, prompt, OUTPUT, 16))
    total = []
    while len(total) < STEPS:
        full = len(scheduler.running) == residents  # a paced policy takes a while to fill the seats
        start = time.perf_counter()
        output = scheduler.schedule()
        seconds = time.perf_counter() - start
        names = list(output.num_scheduled_tokens)
        scheduler.update_from_output(output, vllm_core.runner_output(names, [[7] for _ in names]))
        if full:
            total.append(seconds)
    assert scheduler.gatekeeper is not None, "the gate fell back to stock scheduling"
    own = vllms_own[-STEPS:]
    return median(own), median(whole - part for whole, part in zip(total, own, strict=True))


def main() -> None:
    Scheduler.schedule = _timed_schedule
    table = Table(title="Per step, µs: vLLM's own schedule(), and the gate's part")
    for column in ("policy", "residents", "waiting", "vLLM", "gate", "gate ÷ vLLM"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for policy in ("concurrency-cap", "wait", "fluid"):
        for residents in (16, 128, 512):
            for waiting in (0, 1_000, 10_000):
                own, ours = step_times(policy, residents, waiting)
                cells = (
                    policy,
                    f"{residents}",
                    f"{waiting:,}",
                    f"{1e6 * own:.0f}",
                    f"{1e6 * ours:.1f}",
                    f"{ours / own:.1%}",
                )
                table.add_row(*cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
