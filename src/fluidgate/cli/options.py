"""Options that several commands share, and the values they stand for."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.bounds import MAX_JOBS, MAX_REPEATS, MAX_REQUESTS, MAX_SEED
from fluidgate.cli.groups import grouped as grouped
from fluidgate.cli.groups import option as _option
from fluidgate.cli.hardware_options import HardwareOptions as HardwareOptions
from fluidgate.output import check_writable, make_folder, write_text
from fluidgate.words import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from fluidgate.engine import EngineConfig, Fleet
    from fluidgate.runs import Runner
    from fluidgate.workload import Workload


class Format(StrEnum):
    """What a command prints on stdout."""

    TABLE = "table"
    JSON = "json"


_W, _E, _F, _O, _R = "Workload", "Engine", "Replicas", "Output", "Running"

TraceFormat = Annotated[str | None, _option(_W, "--trace-format", help="Format of the trace, if not recognised.")]
Failed = Annotated[str, _option(_W, "--failed", help="What to do at failed requests in a trace: stop, or drop them.")]
JitterSeed = Annotated[
    int | None,
    _option(
        _W, "--jitter-seed", help="Spread Mooncake's batches of equal timestamps, with this seed.", min=0, max=MAX_SEED
    ),
]
Run = Annotated[
    int | None, _option(_W, "--run", help="Which run of a benchmark result that holds several, from 1.", min=1)
]
Preset = Annotated[str, _option(_W, "--preset", help="Built-in workload, used where no trace is given.")]
Requests = Annotated[
    int | None,
    _option(_W, "--requests", help="Requests to draw from a preset, or to take from a trace.", min=1, max=MAX_REQUESTS),
]
Rate = Annotated[float | None, _option(_W, "--rate", help="Arrival rate in requests per second.")]
RateScale = Annotated[float, _option(_W, "--rate-scale", help="Factor on the arrival rate.")]
Seed = Annotated[int, _option(_W, "--seed", help="Seed of all random draws.", min=0, max=MAX_SEED)]
Repeats = Annotated[
    int, _option(_W, "--repeats", help="Paired repeats for confidence intervals.", min=1, max=MAX_REPEATS)
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy-file", help="Python file with your own `@fluidgate.policy` classes.")
]
Goodput = Annotated[list[str] | None, _option(_O, "--goodput", help="Objectives in ms, such as `ttft:2000 tpot:50`.")]
OutputFormat = Annotated[Format, _option(_O, "--format", help="What to print.")]
API_KEY_VARIABLE = "OPENAI_API_KEY"
"""Where `vllm bench serve` looks for the key."""

ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar=API_KEY_VARIABLE, help="Key that the server asks for; it is never shown."),
]


@dataclass(frozen=True)
class WorkloadOptions:
    """Where requests come from."""

    trace: Annotated[Path | None, _option(_W, "--trace", help="Trace file; its format is detected.")] = None
    trace_format: TraceFormat = None
    failed: Failed = "stop"
    jitter_seed: JitterSeed = None
    run: Run = None
    preset: Preset = "azure-conv-2023"
    requests: Requests = None
    rate: Rate = None
    rate_scale: RateScale = 1.0
    seed: Seed = 0

    def load(self) -> Workload:
        """The workload; a note on stderr says what was read or drawn."""
        return self.draws(1)[0]

    def draws(self, repeats: int) -> list[Workload]:
        """The workloads of paired repeats: drawn with one seed each, or bootstrapped from the trace."""
        from fluidgate.runs import repeated

        drawn = repeated(self._read(), repeats, seed=self.seed) if self.trace else self._generate(repeats)
        return drawn if self.rate_scale == 1.0 else [workload.scaled(self.rate_scale) for workload in drawn]

    def _generate(self, repeats: int) -> list[Workload]:
        from fluidgate.workload import PRESETS, generate

        n = self.requests or 4000
        drawn = [generate(self.preset, n=n, rate=self.rate, seed=self.seed + k) for k in range(repeats)]
        if self.rate is not None and n > 1:  # bursts of minutes make a draw's own rate differ
            drawn = [replace(draw.scaled(self.rate / draw.rate), name=draw.name) for draw in drawn]
        say(f"{n:,} requests drawn from {self.preset}, seed {self.seed}: {PRESETS[self.preset].source}")
        return drawn

    def _read(self) -> Workload:
        from fluidgate.workload import Poisson, read_trace

        assert self.trace is not None
        extra: dict[str, Any] = {"failed": self.failed} if self.failed != "stop" else {}
        if self.jitter_seed is not None:
            extra["jitter_seed"] = self.jitter_seed
        if self.run is not None:
            extra["run"] = self.run
        workload, note = read_trace(self.trace, self.trace_format, seed=self.seed, **extra)
        if workload.duration_s == 0 and self.rate is not None:  # lengths without arrivals
            workload, note = read_trace(
                self.trace, self.trace_format, arrivals=Poisson(self.rate), seed=self.seed, **extra
            )
        say(note)
        if self.requests is not None:
            workload = workload.take(slice(0, self.requests))
        if self.rate is None or workload.duration_s == 0:
            return workload
        return workload.scaled(self.rate / workload.rate)


@dataclass(frozen=True)
class EngineOptions:
    """Limits and batch formation; the fields are those of `EngineConfig`."""

    mode: Annotated[str, _option(_E, "--mode", help="Batch formation: vllm, sarathi or prefill-first.")] = "vllm"
    max_num_seqs: Annotated[
        int | None,
        _option(_E, "--max-num-seqs", help="Largest number of residents; vLLM's own for the GPU if not given."),
    ] = None
    max_num_active_seqs: Annotated[
        int | None, _option(_E, "--max-num-active-seqs", help="Largest number of residents that admission may reach.")
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        _option(
            _E, "--max-num-batched-tokens", help="Token budget per iteration; vLLM's own for the GPU if not given."
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        _option(
            _E,
            "--max-model-len",
            help="Prompt + output tokens of a request, at most: longer ones are refused. The model's own if not given.",
        ),
    ] = None
    watermark: Annotated[
        float | None, _option(_E, "--watermark", help="Share of blocks that admission keeps free.")
    ] = None
    enable_prefix_caching: Annotated[
        bool, _option(_E, "--enable-prefix-caching/--no-enable-prefix-caching", help="Reuse blocks of equal content.")
    ] = True
    scheduler_reserve_full_isl: Annotated[
        bool,
        _option(
            _E,
            "--scheduler-reserve-full-isl/--no-scheduler-reserve-full-isl",
            help="Admit a request only if its whole prompt fits.",
        ),
    ] = True
    long_prefill_token_threshold: Annotated[
        int, _option(_E, "--long-prefill-token-threshold", help="Tokens of one prompt per iteration, at most; 0: any.")
    ] = 0
    cut_lone_prefill: Annotated[
        bool,
        _option(
            _E,
            "--cut-lone-prefill/--no-cut-lone-prefill",
            help="Apply that threshold to a lone request as well, as in vLLM up to 0.30.",
        ),
    ] = False
    preemption: Annotated[
        str, _option(_E, "--preemption", help="How a victim returns: recompute, restart or offload.")
    ] = "recompute"

    def load(self) -> EngineConfig:
        """The engine's settings."""
        from fluidgate.engine import EngineConfig

        return EngineConfig(**asdict(self))


@dataclass(frozen=True)
class FleetOptions:
    """Several engines behind a router; `fluidgate.engine.Fleet` with the workload's seed."""

    replicas: Annotated[
        int, _option(_F, "--replicas", help="Engines that serve the requests, each with its policy.")
    ] = 1
    router: Annotated[
        str, _option(_F, "--router", help="Router: round-robin, least-loaded, least-kv or power-of-two.")
    ] = "round-robin"

    def load(self, seed: int) -> Fleet:
        """The fleet; `seed` is for a router that draws at random."""
        from fluidgate.engine import Fleet

        return Fleet(self.replicas, self.router, seed)


@dataclass(frozen=True)
class RunningOptions:
    """Where many runs happen; `fluidgate.runs.Runner`."""

    jobs: Annotated[
        int, _option(_R, "--jobs", "-j", help="Number of processes; results are the same.", min=1, max=MAX_JOBS)
    ] = 1
    ray: Annotated[str | None, _option(_R, "--ray", help="Run on Ray: a cluster's address, or `local`.")] = None
    results: Annotated[
        Path | None, _option(_R, "--results", help="Keep finished runs in this file, and resume from it.")
    ] = None

    @contextmanager
    def runner(self, what: str) -> Iterator[Runner]:
        """The runner, with a progress bar."""
        from fluidgate.runs import Runner

        with progress_bar(what) as progress:
            yield Runner(self.jobs, self.ray, self.results, progress)


@dataclass(frozen=True)
class OutputOptions:
    """What a command prints, and the folder for its files."""

    output_format: OutputFormat = Format.TABLE
    output_dir: Annotated[Path | None, _option(_O, "--output-dir", help="Folder for result files.")] = None

    @property
    def as_json(self) -> bool:
        """Whether stdout holds JSON."""
        return self.output_format is Format.JSON

    def files(self, *names: str) -> list[Path]:
        """The files of these names in the folder; none where no folder was asked for."""
        return [] if self.output_dir is None else [self.output_dir / name for name in names]


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(width=width, markup=False, emoji=False)  # names from files are text, brackets and all


def say(message: str) -> None:
    """A remark, on stderr, so that stdout holds only the result."""
    print(escaped(message), file=sys.stderr, flush=True)


def write_json(value: Any, path: Path | None = None) -> None:
    """JSON to a file, or to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if path is None:
        print(text)
    else:
        write_text(path, text + "\n")
        say(f"wrote {path}")


def command_line() -> str:
    """The command as it was typed, for the files it writes."""
    return shlex.join(["fluidgate", *sys.argv[1:]])


def try_outputs(*paths: Path | None, folders: Iterable[Path | None] = ()) -> None:
    """Before any run: make the output folders, and refuse every path that could not be written afterwards."""
    for folder in folders:
        if folder is not None:
            make_folder(folder)
    check_writable(*paths)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something long runs; yields a function of (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
