"""Options that several commands share, and the values they stand for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.bounds import MAX_REPEATS, MAX_REQUESTS, MAX_SEED
from fluidgate.cli import names
from fluidgate.cli.engine_options import EngineOptions as EngineOptions
from fluidgate.cli.groups import changed
from fluidgate.cli.groups import grouped as grouped
from fluidgate.cli.groups import option as _option
from fluidgate.cli.hardware_options import HardwareOptions as HardwareOptions
from fluidgate.cli.patience_options import PatienceOptions as PatienceOptions
from fluidgate.cli.running_options import FleetOptions as FleetOptions
from fluidgate.cli.running_options import RunningOptions as RunningOptions
from fluidgate.cli.terminal import Format as Format
from fluidgate.cli.terminal import command_line as command_line
from fluidgate.cli.terminal import console as console
from fluidgate.cli.terminal import progress_bar as progress_bar
from fluidgate.cli.terminal import say as say
from fluidgate.cli.terminal import try_outputs as try_outputs
from fluidgate.cli.terminal import write_json as write_json
from fluidgate.cli.trace_options import Failed as Failed
from fluidgate.cli.trace_options import TraceFormat as TraceFormat
from fluidgate.cli.trace_options import TraceOptions as TraceOptions
from fluidgate.errors import InputError, unknown
from fluidgate.words import listed

if TYPE_CHECKING:
    from rich.console import Console

    from fluidgate.metrics import Objective, Slo
    from fluidgate.workload import ArrivalProcess, Patience, Synthetic, Workload


_W, _O = "Workload", "Output"

DEFAULT_PRESET = "azure-conv-2023"
Preset = Annotated[
    str | None,
    _option(
        _W,
        "--preset",
        help=f"Built-in workload, {DEFAULT_PRESET} if neither it nor a trace is given.",
        autocompletion=names.completed(names.presets),
    ),
]
Requests = Annotated[
    int | None,
    _option(_W, "--requests", help="Requests to draw from a preset, or to take from a trace.", min=1, max=MAX_REQUESTS),
]
Rate = Annotated[
    float | None,
    _option(_W, "--rate", "--request-rate", help="Arrival rate in requests per second; `inf`: all at the beginning."),
]
Burstiness = Annotated[
    float | None,
    _option(_W, "--burstiness", help="Draw arrivals at the rate as `vllm bench serve` does: 1 Poisson, below bursty."),
]
Concurrency = Annotated[
    int | None,
    _option(_W, "--concurrency", "--max-concurrency", help="Closed loop: most requests in flight.", min=1),
]
TurnCount = Annotated[int | None, _option(_W, "--turns", help="Sessions: requests in each.", min=1)]
ThinkTime = Annotated[
    float, _option(_W, "--think-time", help="Sessions: mean seconds from a reply to the next turn (exponential).")
]
Growth = Annotated[
    float, _option(_W, "--growth", help="Sessions: mean number of new prompt tokens in a turn (geometric).")
]
RateScale = Annotated[float, _option(_W, "--rate-scale", help="Factor on the arrival rate.")]
Seed = Annotated[int, _option(_W, "--seed", help="Seed of all random draws.", min=0, max=MAX_SEED)]
Repeats = Annotated[
    int, _option(_W, "--repeats", help="Paired repeats for confidence intervals.", min=1, max=MAX_REPEATS)
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy-file", help="Python file with your own `@fluidgate.policy` classes.")
]
Goodput = Annotated[list[str] | None, _option(_O, "--goodput", help="Objectives in ms, such as `ttft:2000 tpot:50`.")]
Objectives = Annotated[
    list[str] | None,
    _option(
        _O, "--slo", help="Bounds on all requests together, such as `p99:ttft:2000 p95:tpot:60 goodput:0.95` (ms)."
    ),
]
OutputFormat = Annotated[Format, _option(_O, "--format", help="What to print: a table that fits, a wide one, or JSON.")]
API_KEY_VARIABLE = "OPENAI_API_KEY"
"""Where `vllm bench serve` looks for the key."""

ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar=API_KEY_VARIABLE, help="Key that the server asks for; it is never shown."),
]


def promises(goodput: list[str] | None, objectives: list[str] | None) -> tuple[Slo | None, tuple[Objective, ...]]:
    """What `--goodput` asks of a request, None where nothing is asked, and `--slo` of all together."""
    from fluidgate.metrics import parse_goodput, parse_objectives

    slo = parse_goodput(goodput) if goodput else None
    return slo, parse_objectives(objectives or (), slo)


_OF_A_TRACE = tuple(field.name for field in fields(TraceOptions))
_OF_SESSIONS = ("think_time", "growth")


@dataclass(frozen=True)
class TraceFile:
    """Apart, so that it comes before how it is read."""

    trace: Annotated[
        Path | None, _option(_W, "--trace", help="Trace or log; its format is detected. `-`: standard input.")
    ] = None


@dataclass(frozen=True)
class WorkloadOptions(TraceOptions, TraceFile):
    """Where requests come from."""

    preset: Preset = None
    requests: Requests = None
    rate: Rate = None
    rate_scale: RateScale = 1.0
    burstiness: Burstiness = None
    concurrency: Concurrency = None
    turns: TurnCount = None
    think_time: ThinkTime = 10.0
    growth: Growth = 100.0
    seed: Seed = 0

    def load(self, patience: Patience | None = None, *, at_any_rate: bool = False) -> Workload:
        """The workload; a note on stderr says what was read or drawn."""
        return self.draws(1, patience, at_any_rate=at_any_rate)[0]

    def draws(self, repeats: int, patience: Patience | None = None, *, at_any_rate: bool = False) -> list[Workload]:
        """The workloads of paired repeats: drawn with one seed each, or bootstrapped from the trace.

        With `at_any_rate` the command sets the rate: the options may not, and lengths without arrivals get some.
        """
        from fluidgate.runs import repeated
        from fluidgate.workload import Patience

        of = (patience or Patience()).of
        if self.trace:
            drawn = repeated(of(self._read(at_any_rate), self.seed), repeats, seed=self.seed)
        else:
            drawn = [of(draw, self.seed + k) for k, draw in enumerate(self._generate(repeats))]
        return drawn if self.rate_scale == 1.0 else [workload.scaled(self.rate_scale) for workload in drawn]

    def synthetic(self) -> Synthetic:
        """The preset, with what the options change of it; the rate only where it comes with a burstiness."""
        from fluidgate.workload import PRESETS, Conversation

        self._refuse_unused()
        if self._preset not in PRESETS:
            raise unknown("preset", self._preset, PRESETS)
        spec = PRESETS[self._preset]
        if self.turns is not None:
            spec = replace(spec, conversation=Conversation(self.turns, self.think_time, self.growth))
        arrivals = self._new_arrivals(spec.arrivals.rate)
        if arrivals is not None:
            spec = replace(spec, arrivals=arrivals)
        if self.concurrency is not None:
            spec = replace(spec, concurrency=self.concurrency, name=f"{spec.name}, {self.concurrency} in flight")
        return spec

    @property
    def _preset(self) -> str:
        return self.preset or DEFAULT_PRESET

    def refuse_rate(self, why: str) -> None:
        """Refuse a rate beside what sets it.

        Raises:
            InputError: `why` and the options to leave out.
        """
        given = changed(self)
        rates = [given[name] for name in ("rate", "rate_scale") if name in given]
        if rates:
            raise InputError(f"{why}: leave {listed(rates)} out")

    def _refuse_unused(self) -> None:
        """Refuse options that would change nothing."""
        given = changed(self)
        if self.rate == inf and "rate_scale" in given:
            raise InputError("--rate inf lets all requests arrive at once, which no --rate-scale changes: give one")
        if self.trace is not None and self.preset is not None:
            raise InputError("--trace and --preset both name the workload: give one")
        for needed, those in (("trace", _OF_A_TRACE), ("turns", _OF_SESSIONS)):
            unused = [given[name] for name in those if name in given and needed not in given]
            if unused:
                raise InputError(f"{listed(unused)} without --{needed} would change nothing: add it, or leave them out")

    def _new_arrivals(self, own_rate: float) -> ArrivalProcess | None:
        """Arrivals in place of the workload's own; None: those stay."""
        from fluidgate.workload import AllAtOnce, BenchArrivals

        if self.burstiness is None:
            return AllAtOnce() if self.rate == inf else None
        if self.rate == inf or not own_rate < inf:
            raise InputError("--burstiness shapes arrivals at a finite rate: give --rate, or leave --burstiness out")
        return BenchArrivals(own_rate if self.rate is None else self.rate, self.burstiness)

    def _generate(self, repeats: int) -> list[Workload]:
        from fluidgate.workload import PRESETS, generate

        n, spec = self.requests or 4000, self.synthetic()
        rate = None if self.rate == inf else self.rate
        drawn = [generate(spec, n=n, rate=rate, seed=self.seed + k) for k in range(repeats)]
        if (
            rate is not None and len(drawn[0].first_turns) > 1 and self.burstiness is None
        ):  # bursts of minutes make a draw's own rate differ
            drawn = [replace(draw.scaled(rate / draw.rate), name=draw.name) for draw in drawn]
        counted = f"{n:,} request{'s' if n > 1 else ''}"
        say(f"{counted} drawn from {self._preset}, seed {self.seed}: {PRESETS[self._preset].source}")
        return drawn

    def _read(self, at_any_rate: bool) -> Workload:
        import numpy as np

        from fluidgate.workload import Poisson
        from fluidgate.workload._random import random_streams

        assert self.trace is not None
        self._refuse_unused()
        if self.turns is not None:
            raise InputError("--turns makes sessions of a preset; a trace has its own: leave one of them out")
        workload, note = self.read(self.trace, self.seed)
        rate = 1.0 if at_any_rate else self.rate
        drawn = self._new_arrivals(inf if rate is None else rate)
        if workload.duration_s == 0 and rate is not None and drawn is None and workload.concurrency is None:
            # lengths without arrivals
            workload, note = self.read(self.trace, self.seed, Poisson(rate))
        say(note)
        if self.requests is not None:
            workload = workload.take(slice(0, self.requests))
        if self.concurrency is not None:
            name = f"{workload.name}, {self.concurrency} in flight"
            workload = replace(workload, concurrency=self.concurrency, name=name)
        if drawn is not None:
            first, rng = workload.first_turns, np.random.default_rng(*random_streams(self.seed, 1))
            share = len(workload) / len(first)  # a rate is of requests, and sessions begin more seldom
            return workload.begun_at(drawn.sample(len(first), rng) * share)
        if self.rate is None or workload.duration_s == 0:
            return workload
        return workload.scaled(self.rate / workload.rate)


@dataclass(frozen=True)
class OutputOptions:
    """What a command prints, and the folder for its files."""

    output_format: OutputFormat = Format.TABLE
    output_dir: Annotated[Path | None, _option(_O, "--output-dir", help="Folder for result files.")] = None

    @property
    def as_json(self) -> bool:
        """Whether stdout holds JSON."""
        return self.output_format is Format.JSON

    def console(self) -> Console:
        """Where tables go."""
        return console(self.output_format)

    def files(self, *names: str) -> list[Path]:
        """The files of these names in the folder; none where no folder was asked for."""
        return [] if self.output_dir is None else [self.output_dir / name for name in names]
