"""Trace formats: one file each, one table of them all."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fluidgate.errors import InputError, unknown
from fluidgate.workload._random import random_streams
from fluidgate.workload.arrivals import ArrivalProcess
from fluidgate.workload.core import Workload
from fluidgate.workload.formats import (
    aiperf,
    azure,
    bailian,
    burstgpt,
    guidellm,
    langfuse,
    litellm,
    mooncake,
    openai,
    otel,
    sharegpt,
    table,
    vidur,
    vllm_bench,
)
from fluidgate.workload.formats._benchmark import as_measured
from fluidgate.workload.formats._files import STDIN, read_head
from fluidgate.workload.formats.mooncake import write_mooncake
from fluidgate.workload.formats.vidur import write_vidur
from fluidgate.workload.timings import MeasuredRun

__all__ = ["FORMATS", "detect_format", "read_results", "read_trace", "write_mooncake", "write_vidur"]

# A format is a module with `matches(head) -> bool` and `read(path, **options) -> (Workload, note)`. One that says when
# requests were served has `runs(path) -> list[BenchmarkRun]` too.
FORMATS: dict[str, ModuleType] = {
    "aiperf": aiperf,
    "azure": azure,
    "bailian": bailian,
    "burstgpt": burstgpt,
    "guidellm": guidellm,
    "mooncake": mooncake,
    "sharegpt": sharegpt,
    "vidur": vidur,
    "vllm-bench": vllm_bench,
    "langfuse": langfuse,  # before otel, whose attributes it may hold as metadata
    "otel": otel,
    "litellm": litellm,
    "openai": openai,
    "table": table,  # last: it takes what no other knows
}


def read_trace(
    path: str | Path,
    format: str | None = None,
    *,
    arrivals: ArrivalProcess | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Workload, str]:
    """Read a trace file or a log, gzipped or not.

    Args:
        path: the file; "-": standard input.
        format: a key of `FORMATS`; None to tell from the content.
        arrivals: arrival times to use in place of the file's own, or where it has none.
        seed: seeds `arrivals`, and those that a result of a load generator describes and does not hold.
        options: the format's own, such as `failed="drop"` (load generators, sharegpt, burstgpt, logs), `run=2`
            (vllm-bench, guidellm), `jitter_seed=0` (mooncake), `count_tokens=…` (sharegpt), or `columns={"time": "ts"}`
            and `time_unit="ms"` (table and the logs of gateways).

    Returns:
        The workload, first arrival at 0 unless `arrivals` were given, and a note on what was kept and
        changed.

    Errors: InputError with file and line for anything that cannot be read; no row is skipped silently.
    """
    path = STDIN if str(path) == "-" else Path(path)
    name = _known(format or detect_format(path))
    if format is None and options.get("columns") and "columns" not in _options(name):
        name = "table"  # who names columns has a table, whatever it looks like
    _check_options(name, options)
    if "seed" in _options(name):
        options["seed"] = None if arrivals is not None else seed
    workload, note = FORMATS[name].read(path, **options)
    if arrivals is not None:
        begun = len(workload.first_turns)
        workload = workload.begun_at(arrivals.sample(begun, np.random.default_rng(*random_streams(seed, 1))))
        note += f"; arrivals drawn from {arrivals} with seed {seed}"
    return workload, f"{note} (format {name})"


def read_results(path: str | Path, format: str | None = None, *, failed: str = "stop") -> list[MeasuredRun]:
    """The runs in the result of a load generator, with the times at which each request was served.

    Args:
        path: a file of `vllm bench serve`, SGLang's bench_serving, guidellm or aiperf, gzipped or not; or a table in
            Vidur's format with `first_token_at` and `last_token_at`.
        format: a key of `FORMATS`; None to tell from the content.
        failed: "stop" at a request that was not served, or "drop" such requests.

    Errors: InputError for a file without these times, and for anything that cannot be read.
    """
    path = Path(path)
    name = _known(format or detect_format(path))
    runs_of = getattr(FORMATS[name], "runs", None)
    if runs_of is None:
        with_times = [known for known, module in FORMATS.items() if hasattr(module, "runs")]
        raise InputError(
            f"{path}: format {name} has no times at which requests were served; give a result in one of "
            f"{', '.join(with_times)}"
        )
    runs = runs_of(path)
    return [
        as_measured(path, run, failed, path.name if len(runs) == 1 else f"{path.name}, run {number}")
        for number, run in enumerate(runs, 1)
    ]


def detect_format(path: str | Path) -> str:
    """The format whose mark opens the file; `table` for a file without one. Errors: InputError for an empty file."""
    path = STDIN if str(path) == "-" else Path(path)
    head = read_head(path)
    if not head:
        raise InputError(f"{path}:1: the file is empty; give a trace with at least one request")
    return next(name for name, module in FORMATS.items() if module.matches(head))


def _known(name: str) -> str:
    if name not in FORMATS:
        raise unknown("trace format", name, FORMATS)
    return name


def _options(name: str) -> list[str]:
    return list(inspect.signature(FORMATS[name].read).parameters)[1:]


def _check_options(name: str, options: dict[str, Any]) -> None:
    allowed = [option for option in _options(name) if option != "seed"]
    for option in options:
        if option not in allowed:
            raise InputError(f"format {name} has no option {option!r}; it knows {', '.join(allowed) or 'none'}")
