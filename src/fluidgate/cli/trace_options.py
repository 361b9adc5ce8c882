"""How a trace is read: options of every command that takes one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fluidgate.bounds import MAX_SEED
from fluidgate.cli import names
from fluidgate.cli.groups import changed, option

if TYPE_CHECKING:
    from fluidgate.workload import ArrivalProcess, Workload

_W = "Workload"

TraceFormat = Annotated[
    str | None,
    option(
        _W,
        "--trace-format",
        help="Format of the trace, if not recognised.",
        autocompletion=names.completed(names.formats),
    ),
]
Failed = Annotated[str, option(_W, "--failed", help="What to do at failed requests in a trace: stop, or drop them.")]


@dataclass(frozen=True)
class TraceOptions:
    """How a trace is read; those that are given go to `read_trace`."""

    trace_format: TraceFormat = None
    columns: Annotated[
        str | None,
        option(_W, "--columns", help="Columns of your own log, such as `time=ts,prompt=prompt_len,output=n_out`."),
    ] = None
    time_unit: Annotated[
        str | None, option(_W, "--time-unit", help="Unit of times in a trace that does not tell: s, ms, us or ns.")
    ] = None
    failed: Failed = "stop"
    jitter_seed: Annotated[
        int | None,
        option(
            _W,
            "--jitter-seed",
            help="Spread Mooncake's batches of equal timestamps, with this seed.",
            min=0,
            max=MAX_SEED,
        ),
    ] = None
    block_tokens: Annotated[
        int | None, option(_W, "--block-tokens", help="Tokens per hash id of a trace that does not say.", min=1)
    ] = None
    characters_per_token: Annotated[
        float | None, option(_W, "--characters-per-token", help="ShareGPT: characters of a token, in place of 4.")
    ] = None
    run: Annotated[
        int | None, option(_W, "--run", help="Which run of a benchmark result that holds several, from 1.", min=1)
    ] = None

    def read(self, path: Path, seed: int = 0, arrivals: ArrivalProcess | None = None) -> tuple[Workload, str]:
        """The workload in the file, and a note; see `read_trace`."""
        from fluidgate.workload import parse_columns, read_trace

        own = {field.name for field in fields(TraceOptions)} - {"trace_format"}
        given: dict[str, Any] = {name: getattr(self, name) for name in changed(self) if name in own}
        if "columns" in given:
            given["columns"] = parse_columns(self.columns)
        return read_trace(path, self.trace_format, arrivals=arrivals, seed=seed, **given)
