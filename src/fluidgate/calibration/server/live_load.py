"""`measure`: put a sweep's load on a running server, phase by phase, and watch its counters."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fluidgate.calibration.server.bench_process import BenchError, BenchProcess
from fluidgate.calibration.server.iteration_log import IterationLog
from fluidgate.calibration.server.kv_held import kv_remark
from fluidgate.calibration.server.live_steps import MIN_ITERATIONS, MIN_WINDOW_S, Counters, Look, PhaseLooks
from fluidgate.calibration.server.running_server import RunningServer
from fluidgate.calibration.server.sweep import Phase, Sweep
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Scrape

LOOK_EVERY_S = 0.5
AWAIT_EVERY_S = 0.25
IDLE_WITHIN_S = 60.0
START_WITHIN_S = 300.0
"""For one start of the benchmark, which imports vLLM and makes its prompts: 10 s, or minutes on a busy machine."""
MIN_WINDOWS = 4
"""The least per phase; a phase that has fewer is repeated."""
A_WINDOW = f"{MIN_WINDOW_S:g} s and {MIN_ITERATIONS} steps"
FULL_SHARE = 0.75
"""A phase in which less than this share of its requests ever ran at once was not the planned load."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class ServerMeasurement:
    """Looks at all phases of a sweep.

    Attributes:
        runs: one or two per phase; none for a phase in which no request ran.
        first, last: pages before and after.
        repeats: which phases were repeated and why, in sentences.
    """

    runs: tuple[PhaseLooks, ...]
    first: Scrape
    last: Scrape
    repeats: tuple[str, ...] = ()

    def windows(self, phase: Phase) -> int:
        """How many windows of a phase can be used."""
        return _windows(self.runs, phase)

    def step_range(self) -> tuple[float, float]:
        """Least and most tokens that single steps certainly had, from the buckets that grew."""
        name = "iteration_tokens_total"
        before, after = self.first.histogram(name), self.last.histogram(name)
        assert before is not None
        assert after is not None
        added = after.since(before, f"vllm:{name}")
        grown = added.lower_edges[added.counts > 0]
        return max(1.0, float(grown.min())), max(1.0, float(grown.max()))

    def remarks(self, sweep: Sweep) -> list[str]:
        """What a reader should know about the load."""
        sentences = list(self.repeats)
        lost = sum(len(list(run.windows())) - len(run.calm_windows()) for run in self.runs)
        if lost:
            sentences.append(f"{lost} windows with preemptions were left out")
        for phase in sweep.phases:
            windows = self.windows(phase)
            if windows < MIN_WINDOWS:
                sentences.append(
                    f"the phase '{phase.name}' has {windows} of the {MIN_WINDOWS} windows that it needs, so "
                    f"{phase.tells} rests on the other phases; a larger --time-s gives it its own"
                )
            most = max((look.running for run in self.runs if run.name == phase.name for look in run.looks), default=0)
            if 0 < most < FULL_SHARE * phase.concurrency:
                sentences.append(
                    f"no more than {most:g} of {phase.concurrency} requests ran at a time in the phase '{phase.name}': "
                    "the server has fewer seats, or its requests are shorter than the way to it"
                )
        return [*sentences, *kv_remark(sweep.server, self.runs)]


def measure(sweep: Sweep, *, log: IterationLog | None = None, progress: Progress | None = None) -> ServerMeasurement:
    """Run the phases, then once more those that were too short, all within the sweep's time under load.

    A phase may use an equal share of the time that is left; one share is kept for repeats. Whatever happens, the
    benchmark has ended when this returns.

    Args:
        log: the server's log, whose length each look records.
        progress: called with the seconds under load, so far and at most.

    Raises:
        InputError: the server does not answer, serves others too or does not come to rest; the benchmark makes no load.
    """
    first, load = sweep.server.scrape(), _Load(sweep, log, progress)
    for k, phase in enumerate(sweep.phases):
        load.run(phase, load.left_s / (len(sweep.phases) - k + 1))
    short = [phase for phase in sweep.phases if _windows(load.runs, phase) < MIN_WINDOWS]
    for k, phase in enumerate(short):
        load.repeat(phase, load.left_s / (len(short) - k))
    return ServerMeasurement(tuple(load.runs), first, _at_rest(sweep.server), tuple(load.repeats))


@dataclass
class _Load:
    """A sweep under way.

    Attributes:
        spent_s: time under load so far.
        runs: what was looked at, in order.
        troubles: what kept the benchmark from making the load of a phase.
        repeats: as in `ServerMeasurement`.
    """

    sweep: Sweep
    log: IterationLog | None
    progress: Progress | None
    spent_s: float = 0.0
    runs: list[PhaseLooks] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Time under load that is left."""
        return max(0.0, self.sweep.time_s - self.spent_s)

    def repeat(self, phase: Phase, share_s: float) -> None:
        """Run a phase again, until it has enough windows, if there is time."""
        if share_s < MIN_WINDOW_S:
            return
        windows = _windows(self.runs, phase)
        why = self.troubles.get(
            phase.name, f"it had {windows} of the {MIN_WINDOWS} windows of {A_WINDOW} that it needs"
        )
        self.repeats.append(f"the phase '{phase.name}' was repeated: {why}")
        self.run(phase, share_s, again=True)

    def run(self, phase: Phase, share_s: float, *, again: bool = False) -> None:
        """Run a phase for `share_s` under load. A failing benchmark ends the sweep only if nothing is measured yet."""
        looks = PhaseLooks(phase.name, phase.concurrency, self.sweep.server.block_size)
        command = self.sweep.command(phase, int(again))
        try:
            self._look_on(phase, looks, command, share_s, again)
        except BenchError as error:
            if not any(any(run.windows()) for run in (*self.runs, looks)):
                raise InputError(f"{error}; see what it says: {shlex.join(command)}") from None
            self.troubles[phase.name] = str(error)
        if looks.looks:
            self.runs.append(looks)

    def _look_on(self, phase: Phase, looks: PhaseLooks, command: tuple[str, ...], share_s: float, again: bool) -> None:
        began, before_s = Counters.of(_at_rest(self.sweep.server)), self.spent_s
        loaded_s = math.inf  # when the first request was seen; the share begins then
        end_s = time.monotonic() + START_WITHIN_S
        with BenchProcess(command) as bench:
            while (running := bench.running) and time.monotonic() < end_s:
                look = Look.of(self.sweep.server.scrape(), began, self.log.size() if self.log else 0)
                self._refuse_others(phase, look)
                if look.running and not looks.looks:
                    loaded_s = time.monotonic()
                    end_s = loaded_s + share_s
                if look.running or looks.looks:
                    looks.looks.append(look)
                self.spent_s = before_s + max(0.0, time.monotonic() - loaded_s)
                if self.progress:
                    self.progress(int(min(self.spent_s, self.sweep.time_s)), int(self.sweep.time_s))
                if again and _windows((*self.runs, looks), phase) >= MIN_WINDOWS:
                    break
                wait_s = LOOK_EVERY_S if looks.looks else AWAIT_EVERY_S
                time.sleep(max(0.0, min(wait_s, end_s - time.monotonic())))
        self.spent_s = before_s + max(0.0, time.monotonic() - loaded_s)
        if not running and not any(looks.windows()):
            raise BenchError(f"the benchmark ended by itself before the phase '{phase.name}' could be measured")
        if not looks.looks:
            raise BenchError(f"the benchmark sent no request within {START_WITHIN_S:.0f} s of its start")

    def _refuse_others(self, phase: Phase, look: Look) -> None:
        if look.running + look.waiting > phase.concurrency:
            raise InputError(
                f"{self.sweep.server.url}: {look.running + look.waiting:g} requests are there where the sweep keeps up "
                f"{phase.concurrency}; the server has other traffic; calibrate when it has none"
            )


def _windows(runs: Iterable[PhaseLooks], phase: Phase) -> int:
    return sum(len(run.calm_windows()) for run in runs if run.name == phase.name)


def _at_rest(server: RunningServer) -> Scrape:
    """The first page of the server without requests."""
    end_s = time.monotonic() + IDLE_WITHIN_S
    while (scrape := server.scrape()).in_system():
        if time.monotonic() > end_s:
            raise InputError(
                f"{server.url}: {scrape.in_system():g} requests are still there {IDLE_WITHIN_S:.0f} s after the load "
                "ended; does the server have other traffic?"
            )
        time.sleep(AWAIT_EVERY_S)
    return scrape
