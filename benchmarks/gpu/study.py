"""`--study paper-h3`: the paper's runs on a real GPU, predicted before they are measured.

1. Step times of p256-d20 over batch sizes, with the line through them; step times over a grid, and the calibration.
2. Every policy at every load of p512-d20 and of LMSYS lengths, simulated on the calibrated machine.
3. The same requests under the same policies on the model.

The file is written after each part and after each run, and runs end with the budget, so whatever stops the study
leaves what was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measure import Point, grid, measure, with_fixed_time
from outcome import numbers, step_time_error
from sweep import fits, sweep

from engine import Engine, serve
from fluidgate.calibration import CalibrationReport, calibrate_steps
from fluidgate.calibration.points import points_of
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.output import write_text
from fluidgate.policies import Policy, make_policy
from fluidgate.runs import plan_for, simulate
from fluidgate.workload import Workload, generate

POLICIES = ("greedy", "concurrency-cap", "wait", "nested-wait", "fluid")
CONFIG = EngineConfig(async_scheduling=False)  # a batch is formed when the one before it has ended, as on the model
OVERHEAD_S = 2e-3
"""Of a step outside the model's time: decisions in the interpreter."""
SHARE = 0.9
"""Of the time left that the runs are sized for."""


@dataclass(frozen=True)
class Scale:
    """How much the study runs.

    Attributes:
        loads: arrival rates ÷ stability boundary.
        requests: per workload, those of a run at the boundary; at other loads in proportion, so that arrivals last
            equally long.
        least_requests: of a run.
        batches: sizes of batches of p256-d20, rising.
        passes: over these batches, after one that does not count.
        grid_blocks: KV blocks over which steps are measured for the calibration; None: the engine's whole cache.
        budget_s: seconds for everything.
    """

    loads: tuple[float, ...]
    requests: Mapping[str, int]
    least_requests: int
    batches: tuple[int, ...]
    passes: int
    grid_blocks: int | None
    budget_s: float


BATCHES = (*range(1, 3), *range(4, 17, 2), *range(20, 33, 4), *range(40, 129, 8))
"""25 sizes from 1 to 128, as many as the paper has; it does not list them."""
FULL = Scale((0.2, 0.5, 0.8, 1.0, 1.1), {"p512-d20": 300, "lmsys": 400}, 20, BATCHES, 3, None, 540.0)
TINY = Scale((0.5, 1.1), {"p512-d20": 10, "lmsys": 10}, 4, (1, 2, 4, 8, 16, 32, 64, 128), 1, 512, 60.0)


@dataclass(frozen=True, eq=False)
class Run:
    """One policy at one load, and what the simulator says of it."""

    workload: Workload
    load: float
    policy: Policy
    predicted: dict[str, Any]
    predicted_wall_s: float

    def row(self) -> dict[str, Any]:
        """For the file; `measured` comes later."""
        return {
            "workload": self.workload.name,
            "load": self.load,
            "rate": self.workload.rate,
            "requests": len(self.workload),
            "digest": self.workload.digest,
            "output_tokens": int(self.workload.output_tokens.sum()),
            "policy": self.policy.name,
            "parameters": asdict(self.policy),
            "predicted": self.predicted,
            "measured": None,
        }


@dataclass
class Study:
    """The study on one engine, and the file that it fills.

    Attributes:
        num_gpu_blocks: KV blocks of the runs.
        result: what the file holds.
        started_s: when the budget began, by `time.perf_counter`.
    """

    engine: Engine
    num_gpu_blocks: int
    scale: Scale
    seed: int
    result: dict[str, Any]
    out: Path
    say: Callable[[str], None]
    started_s: float

    def run(self) -> None:
        """All of it."""
        hardware = self._calibrate()
        runs = self.predict(hardware)
        self.measure(runs, hardware)

    def _calibrate(self) -> Hardware:
        swept = sweep(self.engine, self.scale.batches, self.scale.passes, self.say)
        points: list[Point] = measure(self.engine.with_blocks(self.scale.grid_blocks), list(grid()), self.say)
        rows = [(p.kind, p.tokens, p.kv_tokens, p.attention_pairs, p.sequences, p.seconds) for p in points]
        report: CalibrationReport = calibrate_steps(points_of(rows))
        report = replace(report, step_time=with_fixed_time(report.step_time, points))
        self.result["sweep"] = fits(swept, report.step_time)
        self.result["calibration"] = report.to_dict()
        self.result["steps"] = rows
        self._save()
        line = self.result["sweep"]["line"]
        self.say(f"p256-d20: R² {line['r2']:.4f}, mean error {line['mean_error']:.2%}")
        self.say(f"calibrated {report.step_time}, {report.relative_error:.1%} off on held-out steps")
        name = f"{self.result['model']} on {self.result['device']}"
        return report.hardware(name, self.num_gpu_blocks, self.engine.block_size, "benchmarks/gpu/run.py")

    def predict(self, hardware: Hardware) -> list[Run]:
        """The runs, with as many requests as the budget has time for."""
        runs = self._runs(hardware, 1.0)
        wall_s, left_s = sum(run.predicted_wall_s for run in runs), SHARE * self._left_s()
        self.say(f"{len(runs)} runs predicted to take {wall_s:.0f} s; {left_s:.0f} s are for them")
        if wall_s > left_s:
            runs = self._runs(hardware, max(left_s, 0.0) / wall_s)
        self.result["runs"] = [run.row() for run in runs]
        self._save()
        return runs

    def _runs(self, hardware: Hardware, share: float) -> list[Run]:
        runs = []
        for name, at_boundary in self.scale.requests.items():
            drawn = generate(name, n=max(at_boundary, self.scale.least_requests), seed=self.seed)
            boundary_rate = plan_for(drawn, hardware, CONFIG).stability.boundary_rate
            for load in self.scale.loads:
                count = max(self.scale.least_requests, round(share * load * at_boundary))
                workload = generate(name, n=count, seed=self.seed)
                workload = replace(workload.scaled(load * boundary_rate / workload.rate), name=name)
                plan = plan_for(workload, hardware, CONFIG)
                runs += [_predicted(workload, load, make_policy(policy, plan), hardware) for policy in POLICIES]
        return runs

    def measure(self, runs: list[Run], hardware: Hardware) -> None:
        """Each run on the model, while the budget lasts."""
        engine, pace = self.engine.with_blocks(self.num_gpu_blocks), 1.0
        for run, row in zip(runs, self.result["runs"], strict=True):
            what = f"{run.workload.name} at {run.load:g}, {run.policy.name}"
            if pace * run.predicted_wall_s > self._left_s():
                self.say(f"{what}: not measured, the budget has {max(self._left_s(), 0.0):.0f} s left")
                continue
            began_s = time.perf_counter()
            served = serve(engine, run.workload, hardware, run.policy, CONFIG)
            pace = max(1.0, (time.perf_counter() - began_s) / run.predicted_wall_s)
            row["measured"] = numbers(served.records) | {
                "sampled_tokens": served.sampled_tokens,
                "computed_tokens": served.records.computed_tokens,
                "recomputed_tokens": int(served.records.recomputed_tokens.sum()),
                "peak_blocks": served.records.peak_blocks,
            }
            row["step_time_error"] = step_time_error(served)
            self._save()
            e2e = "mean_e2el_ms"
            self.say(f"{what}: mean E2E measured {row['measured'][e2e]:,.0f} ms, predicted {run.predicted[e2e]:,.0f}")

    def _left_s(self) -> float:
        return self.scale.budget_s - (time.perf_counter() - self.started_s)

    def _save(self) -> None:
        self.result["wall_s"] = round(time.perf_counter() - self.started_s, 1)
        write_text(self.out, json.dumps(plain(self.result, finite=True), indent=1) + "\n")


def _predicted(workload: Workload, load: float, policy: Policy, hardware: Hardware) -> Run:
    # In the interpreter: a few short runs take less than the compiler, and need no numba.
    records = simulate(workload, hardware, policy, config=CONFIG, compile=False)
    wall_s = records.busy_s + OVERHEAD_S * records.iterations
    return Run(workload, load, policy, numbers(records), wall_s)


def with_requests(scale: Scale, requests: int | None, budget_s: float | None) -> Scale:
    """The scale with what the command line says in place of its own."""
    counts = scale.requests if requests is None else dict.fromkeys(scale.requests, requests)
    return replace(scale, requests=counts, budget_s=budget_s or scale.budget_s)
