"""A step time from a running vLLM server: load it phase by phase, look at its counters, fit."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fluidgate.doctor import Scrape
from fluidgate.errors import InputError
from fluidgate.hardware import CalibrationReport, StepTime, calibrate_steps
from fluidgate.hardware.calibrate import MIN_STEPS
from fluidgate.serving.bench_process import BenchProcess, bench_words
from fluidgate.serving.iteration_log import IterationLog
from fluidgate.serving.live_steps import Counters, Look, PhaseLooks, mean_steps
from fluidgate.serving.running_server import RunningServer
from fluidgate.serving.sweep import Phase, lay_out

LOOK_EVERY_S = 0.5
AWAIT_EVERY_S = 0.25
IDLE_WITHIN_S = 60.0
FULL_SHARE = 0.75
"""A phase at which fewer than these of its requests ever ran was not the load that was laid out."""

SLOWER = 0.05
"""A robust fit leaves out what others' work on the machine adds; above this a reader should know."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sweep:
    """A load that was laid out and has not begun.

    Attributes:
        server: whom it is for.
        phases: in order; each has the same share of the time that is left.
        commands: the benchmark's command line of each phase.
        time_s: bound of the whole, the benchmark's own start-up included.
    """

    server: RunningServer
    phases: tuple[Phase, ...]
    commands: tuple[tuple[str, ...], ...]
    time_s: float


def lay_out_sweep(
    server: RunningServer,
    *,
    time_s: float,
    bench_command: str,
    concurrency: int | None = None,
    token_budget: int | None = None,
    tokenizer: str | None = None,
    seed: int | None = None,
) -> Sweep:
    """The phases for a server, and their commands; nothing is started.

    Args:
        seed: of the first phase's prompts; by default the time, because a server may remember an earlier sweep's.

    Raises:
        InputError: no room for the phases, no time, or no such benchmark.
    """
    if not 0.0 < time_s < 86400.0:
        raise InputError(f"--time-s {time_s:g} must be above 0 and below a day, in seconds")
    words = bench_words(bench_command)
    phases = lay_out(server, time_s, concurrency=concurrency, token_budget=token_budget)
    first = int(time.time()) if seed is None else seed
    commands = tuple((*words, *phase.arguments(server, first + k, tokenizer)) for k, phase in enumerate(phases))
    return Sweep(server, phases, commands, time_s)


@dataclass(frozen=True, eq=False)
class ServerMeasurement:
    """Looks at all phases of a sweep.

    Attributes:
        phases: one each.
        first, last: pages before and after.
    """

    phases: tuple[PhaseLooks, ...]
    first: Scrape
    last: Scrape

    def step_range(self) -> tuple[float, float]:
        """Least and most tokens that single steps surely had, from the buckets that grew."""
        name = "iteration_tokens_total"
        before, after = self.first.histogram(name), self.last.histogram(name)
        assert before is not None
        assert after is not None
        added = after.since(before, f"vllm:{name}")
        grown = added.lower_edges[added.counts > 0]
        return max(1.0, float(grown.min())), max(1.0, float(grown.max()))

    def remarks(self, phases: Sequence[Phase]) -> list[str]:
        """What a reader should know of the load."""
        said = []
        lost = sum(len(list(looks.windows())) - len(looks.calm_windows()) for looks in self.phases)
        if lost:
            said.append(f"{lost} windows with preemptions were left out")
        for phase, looks in zip(phases, self.phases, strict=True):
            most = max(look.running for look in looks.looks)
            if most < FULL_SHARE * phase.concurrency:
                said.append(
                    f"no more than {most:g} of {phase.concurrency} requests ran at a time in the phase '{phase.name}': "
                    "the server has fewer seats, or its requests are shorter than the way to it"
                )
        return said


def measure(sweep: Sweep, *, log: IterationLog | None = None, progress: Progress | None = None) -> ServerMeasurement:
    """Run the phases within their time. Whatever happens, the benchmark has ended when this returns.

    Raises:
        InputError: the server does not answer, serves others too or does not come to rest; the benchmark fails; a phase
            is over before its load has begun.
    """
    began_s = time.monotonic()
    end_s, left = began_s + sweep.time_s, len(sweep.phases)
    looks, first = [], sweep.server.scrape()
    for phase, command in zip(sweep.phases, sweep.commands, strict=True):
        now_s = time.monotonic()
        share_s = (end_s - now_s) / left  # of what the phases before have left
        run = _PhaseRun(sweep.server, phase, began_s, now_s + share_s, sweep.time_s, progress)
        looks.append(run.looks(command, log))
        left -= 1
    return ServerMeasurement(tuple(looks), first, _at_rest(sweep.server))


@dataclass(frozen=True)
class _PhaseRun:
    server: RunningServer
    phase: Phase
    began_s: float
    end_s: float
    time_s: float
    progress: Progress | None

    def looks(self, command: Sequence[str], log: IterationLog | None) -> PhaseLooks:
        found = PhaseLooks(self.phase.name, self.phase.concurrency, self.server.block_size)
        began = Counters.of(_at_rest(self.server))
        start_s = time.monotonic()
        with BenchProcess(command) as bench:
            while bench.running and time.monotonic() < self.end_s:
                look = Look.of(self.server.scrape(), began, log.size() if log else 0)
                self._refuse_others(look)
                if look.running or found.looks:
                    found.looks.append(look)
                if self.progress:
                    self.progress(int(time.monotonic() - self.began_s), int(self.time_s))
                wait_s = LOOK_EVERY_S if found.looks else AWAIT_EVERY_S
                time.sleep(max(0.0, min(wait_s, self.end_s - time.monotonic())))
            in_time = bench.running
        if not any(found.windows()):
            if not in_time:
                raise InputError(
                    f"the benchmark ended by itself before the phase '{self.phase.name}' could be measured; see what "
                    f"it says: {shlex.join(command)}"
                )
            raise InputError(
                f"the phase '{self.phase.name}' was over before it could be measured: it had "
                f"{time.monotonic() - start_s:.0f} s, most of which the benchmark takes to start; give more than "
                f"--time-s {self.time_s:g}"
            )
        return found

    def _refuse_others(self, look: Look) -> None:
        if look.running + look.waiting > self.phase.concurrency:
            raise InputError(
                f"{self.server.url}: {look.running + look.waiting:g} requests are there where the sweep keeps up "
                f"{self.phase.concurrency}; somebody else uses the server, calibrate when nobody does"
            )


def _at_rest(server: RunningServer) -> Scrape:
    """The first page of the server without requests."""
    end_s = time.monotonic() + IDLE_WITHIN_S
    while (scrape := server.scrape()).in_system():
        if time.monotonic() > end_s:
            raise InputError(
                f"{server.url}: {scrape.in_system():g} requests are still there {IDLE_WITHIN_S:.0f} s after the load "
                "ended; does somebody else use the server?"
            )
        time.sleep(AWAIT_EVERY_S)
    return scrape


def _slow_stretches(report: CalibrationReport) -> list[str]:
    longer = float(report.points.duration_s.sum() / report.fitted_s.sum()) - 1
    if longer < SLOWER:
        return []
    return [
        f"steps took {longer:.0%} longer on average than the fit says: the server had slow stretches, which the fit "
        "leaves out, and latencies will be that much longer where it has them again"
    ]


def fit(
    sweep: Sweep,
    measured: ServerMeasurement,
    *,
    log: IterationLog | None = None,
    sheet: StepTime | None = None,
) -> CalibrationReport:
    """The step time of what was measured.

    Args:
        log: the server's log during the sweep, for single steps.
        sheet: as in `calibrate_steps`.

    Raises:
        InputError: too few steps.
    """
    points = mean_steps(measured.phases) if log is None else log.steps(measured.phases)
    if len(points.duration_s) < MIN_STEPS:
        raise InputError(
            f"{len(points.duration_s)} windows of a second under load are too few, where {MIN_STEPS} are the least; "
            f"give more than --time-s {sweep.time_s:g}"
        )
    report = calibrate_steps(points, sheet=sheet)
    least, most = measured.step_range()
    known = report.calibration.tokens
    calibration = replace(report.calibration, tokens=(min(known[0], least), max(known[1], most)))
    remarks = (*report.remarks, *_slow_stretches(report), *measured.remarks(sweep.phases))
    return replace(report, calibration=calibration, remarks=remarks)
