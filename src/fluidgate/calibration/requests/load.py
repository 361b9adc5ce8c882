"""`Load`: one measured run as the fit sees it, groups of requests whose latencies a simulated run must meet.

Single requests of two runs with the same step time differ: which request meets which in a step depends on milliseconds.
Means over groups do not, and the median half of each group leaves out the few that met another prefill, or were
evicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.hardware.core import StepTime
from fluidgate.workload import MeasuredRun, Timings, Workload

Replay = Callable[[Workload, StepTime], Timings]
"""The requests of a workload, served by the simulator under stock admission with this step time."""

GROUPS = 20
MIN_IN_GROUP = 5
TRIM = 0.2
"""Share of a group left out at either end."""
STEPS_IN_TTFT = 5
"""A first token takes a few steps without any queue: below that, errors of TTFT count against so many steps."""
QUEUED_STEPS = 20
"""A TTFT of more steps is a wait for a seat, and says nothing about what HTTP and the tokeniser add."""
MIN_REQUESTS = 20


@dataclass(frozen=True, eq=False)
class Load:
    """A measured run, and the requests of it whose latencies are compared; the others load the server all the same.

    Attributes:
        run: the run.
        part: the requests that are compared.
    """

    run: MeasuredRun
    part: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        count = len(self.compared)
        if count < MIN_REQUESTS or not len(self.streamed):
            which = "requests" if count < MIN_REQUESTS else "requests without times between their tokens"
            raise InputError(
                f"{self.run.name}: {count} {which} are too few to fit a step time to; give a run with at least "
                f"{MIN_REQUESTS}, whose tokens came one after the other"
            )

    @property
    def compared(self) -> IntArray:
        """Rows of the requests that are compared."""
        return np.arange(len(self.run.workload))[self.part]

    @cached_property
    def streamed(self) -> IntArray:
        """Those of them whose tokens came one after the other, so that they have a TPOT."""
        return self.compared[self.run.timings.latencies_s["TPOT"][self.compared] > 0]

    @cached_property
    def decoding(self) -> FloatArray:
        """Requests that decoded while each did, itself among them, on average over its time; shape (n,)."""
        times = self.run.timings
        moments = np.concatenate((times.first_token_s, times.last_token_s))
        order = np.argsort(moments, kind="stable")
        changes = np.repeat((1.0, -1.0), len(times.arrival_s))[order]
        request_s = np.concatenate(((0.0,), np.cumsum(np.cumsum(changes)[:-1] * np.diff(moments[order]))))
        spent_s = np.diff(np.interp((times.first_token_s, times.last_token_s), moments[order], request_s), axis=0)[0]
        lasted_s = times.last_token_s - times.first_token_s
        mean = np.divide(spent_s, lasted_s, out=np.ones_like(spent_s), where=lasted_s > 0)
        return np.asarray(np.maximum(mean, 1.0))

    @cached_property
    def step_s(self) -> float:
        """Median time per output token: about a step."""
        return float(np.median(self.run.timings.latencies_s["TPOT"][self.streamed]))

    @cached_property
    def tpot_groups(self) -> list[IntArray]:
        """Rows of like numbers of decoding requests: how TPOT grows with them tells a step's fixed part."""
        return _groups(self.streamed, self.decoding[self.streamed], GROUPS)

    @cached_property
    def ttft_groups(self) -> list[IntArray]:
        """Rows of like prompts, and rows in order of arrival: TTFT grows with either, by compute and by queueing."""
        rows = self.compared
        by_prompt = _groups(rows, self.run.workload.prompt_tokens[rows], GROUPS // 2)
        return by_prompt + _groups(rows, self.run.timings.arrival_s[rows], GROUPS // 2)

    @cached_property
    def unqueued(self) -> list[bool]:
        """Which of `ttft_groups` hardly queued."""
        ttft_s = self.run.timings.latencies_s["TTFT"]
        return [bool(ttft_s[rows].mean() < QUEUED_STEPS * self.step_s) for rows in self.ttft_groups]

    def tpot_errors(self, simulated: Timings) -> FloatArray:
        """Logarithm of simulated ÷ measured TPOT, a trimmed mean for each of `tpot_groups`."""
        tpot_s, measured_s = simulated.latencies_s["TPOT"], self.run.timings.latencies_s["TPOT"]
        return np.array([_trimmed_mean(np.log(tpot_s[rows] / measured_s[rows])) for rows in self.tpot_groups])

    def ttft_errors(self, simulated: Timings, overhead_s: float) -> FloatArray:
        """Simulated − measured TTFT relative to its size, a mean for each of `ttft_groups`: trimmed without a queue."""
        measured_s = self.run.timings.latencies_s["TTFT"]
        late_s = simulated.latencies_s["TTFT"] - measured_s
        return np.array(
            [
                (_trimmed_mean(late_s[rows]) + overhead_s if unqueued else late_s[rows].mean())
                / np.hypot(measured_s[rows].mean(), STEPS_IN_TTFT * self.step_s)
                for rows, unqueued in zip(self.ttft_groups, self.unqueued, strict=True)
            ]
        )

    @cached_property
    def terms(self) -> dict[str, float]:
        """What each coefficient is multiplied with over the whole run, as far as the client can tell."""
        workload, decodes = self.run.workload, self.run.workload.output_tokens - 1
        prompt = workload.prompt_tokens.astype(np.float64)
        return {
            "c0": float((decodes / self.decoding).sum()) + 1.0,
            "c_tok": float((prompt + decodes).sum()),
            "c_kv": float((prompt + decodes * (prompt + decodes / 2.0)).sum()),
            "c_attn": float((prompt * (prompt + 1.0) / 2.0).sum()),
            "c_seq": float(len(prompt) + decodes.sum()),
        }

    def shares(self, step_time: StepTime) -> FloatArray:
        """About which share of its time the server spends on each of `COEFFICIENTS`."""
        seconds = np.array([getattr(step_time, name) * self.terms[name] for name in COEFFICIENTS])
        return np.asarray(seconds / seconds.sum())


def _groups(rows: IntArray, by: FloatArray | IntArray, count: int) -> list[IntArray]:
    """The rows in groups of equal size in order of `by`."""
    ordered = rows[np.argsort(by, kind="stable")]
    edges = np.linspace(0, len(rows), max(1, min(count, len(rows) // MIN_IN_GROUP)) + 1).astype(int)
    return [ordered[low:high] for low, high in pairwise(edges) if high > low]


def _trimmed_mean(values: FloatArray) -> float:
    cut = int(TRIM * len(values))
    return float(np.sort(values)[cut : len(values) - cut].mean())
