"""Options that several commands share, and the values they stand for."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from fluidgate.engine import EngineConfig
    from fluidgate.hardware import Hardware
    from fluidgate.workload import Workload


class Format(StrEnum):
    """What a command prints on stdout."""

    TABLE = "table"
    JSON = "json"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


_W, _H, _E, _O = "Workload", "Hardware", "Engine", "Output"

Trace = Annotated[Path | None, _option(_W, "--trace", help="Trace file; its format is told from its content.")]
TraceFormat = Annotated[str | None, _option(_W, "--trace-format", help="Name the trace format.")]
Failed = Annotated[str, _option(_W, "--failed", help="Failed requests in a trace: stop or drop them.")]
Preset = Annotated[str, _option(_W, "--preset", help="Built-in workload, used where no trace is given.")]
Requests = Annotated[
    int | None, _option(_W, "--requests", help="Requests to draw from a preset, or to take from a trace.", min=1)
]
Rate = Annotated[float | None, _option(_W, "--rate", help="Arrival rate in requests per second.")]
RateScale = Annotated[float, _option(_W, "--rate-scale", help="Let requests arrive this many times as fast.")]
Seed = Annotated[int, _option(_W, "--seed", help="Seed of all random draws.", min=0)]
Repeats = Annotated[int, _option(_W, "--repeats", help="Paired repeats for confidence intervals.", min=1)]

Model = Annotated[str, _option(_H, "--model", help="Model name, or any name together with --model-config.")]
Gpu = Annotated[str, _option(_H, "--gpu", help="GPU name.")]
Tp = Annotated[int, _option(_H, "--tp", help="Tensor-parallel GPUs.", min=1)]
Variant = Annotated[str | None, _option(_H, "--variant", help="Profile variant, such as `paper`.")]
ModelConfig = Annotated[Path | None, _option(_H, "--model-config", help="Hugging Face config.json of the model.")]
HardwareFile = Annotated[Path | None, _option(_H, "--hardware", help="Hardware file, instead of model and GPU.")]
MemoryFraction = Annotated[float, _option(_H, "--gpu-memory-utilization", help="Share of GPU memory to use.")]
NumGpuBlocks = Annotated[int | None, _option(_H, "--num-gpu-blocks", help="KV blocks, as vLLM counts them.")]
BlockSize = Annotated[int | None, _option(_H, "--block-size", help="Tokens per KV block.")]

Mode = Annotated[str, _option(_E, "--mode", help="Batch formation: vllm, sarathi or prefill-first.")]
MaxNumSeqs = Annotated[int, _option(_E, "--max-num-seqs", help="Most residents.")]
MaxNumActiveSeqs = Annotated[int | None, _option(_E, "--max-num-active-seqs", help="Most residents at admission.")]
BatchedTokens = Annotated[int | None, _option(_E, "--max-num-batched-tokens", help="Token budget per iteration.")]
Watermark = Annotated[float | None, _option(_E, "--watermark", help="Share of blocks that admission keeps free.")]
PrefixCaching = Annotated[
    bool, _option(_E, "--enable-prefix-caching/--no-enable-prefix-caching", help="Reuse blocks of equal content.")
]
ReserveFullIsl = Annotated[
    bool,
    _option(
        _E,
        "--scheduler-reserve-full-isl/--no-scheduler-reserve-full-isl",
        help="Admit only where the whole prompt fits.",
    ),
]
LongPrefill = Annotated[int, _option(_E, "--long-prefill-token-threshold", help="Most prompt tokens per request.")]
Preemption = Annotated[str, _option(_E, "--preemption", help="A victim's fate: recompute or restart.")]

PolicyFile = Annotated[
    Path | None, typer.Option("--policy-file", help="Python file whose `@fluidgate.policy` classes to use as well.")
]
Goodput = Annotated[
    list[str] | None, _option(_O, "--goodput", help="Objective in ms, such as `ttft:2000`; may be repeated.")
]
OutputFormat = Annotated[Format, _option(_O, "--format", help="What to print.")]
OutputDir = Annotated[Path | None, _option(_O, "--output-dir", help="Folder for result files.")]


@dataclass(frozen=True)
class WorkloadOptions:
    """Where requests come from."""

    trace: Path | None
    trace_format: str | None
    failed: str
    preset: str
    requests: int | None
    rate: float | None
    rate_scale: float
    seed: int

    def load(self) -> Workload:
        """The workload; what was read or drawn is said on stderr."""
        return self.draws(1)[0]

    def draws(self, repeats: int) -> list[Workload]:
        """The workloads of paired repeats: drawn with one seed each, or bootstrapped from the trace."""
        from fluidgate.experiments import repeated

        drawn = repeated(self._read(), repeats, seed=self.seed) if self.trace else self._generate(repeats)
        return drawn if self.rate_scale == 1.0 else [workload.scaled(self.rate_scale) for workload in drawn]

    def _generate(self, repeats: int) -> list[Workload]:
        from fluidgate.workload import PRESETS, generate

        n = self.requests or 4000
        drawn = [generate(self.preset, n=n, rate=self.rate, seed=self.seed + k) for k in range(repeats)]
        say(f"{n:,} requests drawn from {self.preset}, seed {self.seed}: {PRESETS[self.preset].source}")
        return drawn

    def _read(self) -> Workload:
        from fluidgate.workload import Poisson, read_trace

        assert self.trace is not None
        extra = {"failed": self.failed} if self.failed != "stop" else {}
        workload, note = read_trace(self.trace, self.trace_format, **extra)
        if workload.duration_s == 0 and self.rate is not None:  # lengths without arrivals
            workload, note = read_trace(
                self.trace, self.trace_format, arrivals=Poisson(self.rate), seed=self.seed, **extra
            )
        say(note)
        if self.requests is not None:
            workload = workload.take(slice(0, self.requests))
        at_rate = self.rate is None or workload.duration_s == 0
        return workload if at_rate else workload.scaled(self.rate / workload.rate)


@dataclass(frozen=True)
class HardwareOptions:
    """What the requests run on."""

    model: str
    gpu: str
    tp: int
    variant: str | None
    model_config: Path | None
    file: Path | None
    gpu_memory_utilization: float
    num_gpu_blocks: int | None
    block_size: int | None

    def load(self) -> Hardware:
        """The hardware file, or the profile or estimate of the model on the GPU."""
        from fluidgate.hardware import get_hardware, read_hardware

        if self.file is None:
            return get_hardware(
                self.model,
                self.gpu,
                tp=self.tp,
                gpu_memory_utilization=self.gpu_memory_utilization,
                num_gpu_blocks=self.num_gpu_blocks,
                block_size=self.block_size or 16,
                variant=self.variant,
                config=self.model_config,
            )
        hardware = read_hardware(self.file)
        given = {"num_gpu_blocks": self.num_gpu_blocks, "block_size": self.block_size}
        return hardware.with_(**{name: value for name, value in given.items() if value is not None})


def load_policies(path: Path | None) -> None:
    """Run a user's Python file, so that the policies it registers can be named."""
    if path is None:
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"{path}: is not a Python file; give the file that defines the policy")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # whatever the user's own code raises
        raise InputError(f"{path}: {type(error).__name__}: {error}; run the file with python to see where") from error


def engine_config(**options: Any) -> EngineConfig:
    """The engine's settings from the options of the same names."""
    from fluidgate.engine import EngineConfig

    return EngineConfig(**options)


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(width=width)


def say(message: str) -> None:
    """A remark beside the result: on stderr, so that stdout holds the result alone."""
    print(message, file=sys.stderr, flush=True)


def write_json(value: Any, path: Path | None = None) -> None:
    """JSON to a file, or to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
        say(f"wrote {path}")


def made(folder: Path) -> Path:
    """The output folder, created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error.strerror}); choose another --output-dir") from None
    return folder


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something long runs; yields a function of (done, in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
