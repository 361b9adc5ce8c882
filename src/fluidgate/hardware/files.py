"""Hardware files: a `Hardware` as JSON that a user can write, keep and share."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_KV_TOKENS, MAX_STEP_S, check_name
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS, Calibration
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.kv_law import KvDtype, KvGroup, KvLaw
from fluidgate.hardware.kv_layers import KIND_TITLES, MAX_LAYERS
from fluidgate.hardware.server_defaults import ServerDefaults
from fluidgate.hardware.step_grid import PARTS, TABLES, StepGrid
from fluidgate.jsonfile import JsonObject, read_object
from fluidgate.output import write_text

VERSION = 1
GRID_DIGITS = 6
_SERVER = ("max_num_seqs", "max_num_batched_tokens", "max_model_len")
_OPTIONAL = ("block_size", "source", "relative_error", "overhead_s", "calibration", "grid", "kv_cache", *_SERVER)
WITHOUT_C_SEQ = 4
"""Coefficients of a calibration from before there was c_seq, which was 0 by definition."""
_KEYS = ("version", "name", "step_time", "num_gpu_blocks", *_OPTIONAL)
_KV_KEYS = ("dtype", "bytes_per_block", "groups")
_DTYPE_KEYS = ("name", "element_bytes", "source")
_GROUP_KEYS = ("kind", "layers", "block_size", "reach", "copies")
_CALIBRATION_KEYS = ("steps", "plus_minus", "correlation", "misfit", "tokens", "kv_tokens")


def read_hardware(path: Path | str) -> Hardware:
    """The hardware in a JSON file as `write_hardware` writes it.

    `version`, `name`, `step_time` (with `c0`; `c_tok`, `c_kv`, `c_attn`, `c_seq` in seconds default to 0) and
    `num_gpu_blocks` are required; `block_size` defaults to 16, `source` to empty, `overhead_s` to 0, `relative_error`,
    `calibration`, `grid` and `kv_cache` to unknown, as do `max_num_seqs`, `max_num_batched_tokens` and `max_model_len`,
    which the server sets by itself.

    Raises:
        InputError: no such file, not JSON, an unknown, missing or malformed key; names the file and the key.
    """
    file = read_object(path, "a hardware file (JSON)")
    file.refuse_others(_KEYS)
    version = file.integer("version")
    if version != VERSION:
        raise file.error("version", f"= {version} is not known here; this release reads version {VERSION}")
    times = file.object("step_time")
    times.refuse_others(COEFFICIENTS)
    try:
        return Hardware(
            name=file.text("name"),
            step_time=StepTime(times.number("c0"), *(times.number(name, default=0.0) for name in COEFFICIENTS[1:])),
            num_gpu_blocks=file.integer("num_gpu_blocks", at_least=2),
            block_size=file.integer("block_size", at_most=MAX_BLOCK_SIZE, default=16),
            source=file.text("source", default=""),
            relative_error=file.number("relative_error") if file.has("relative_error") else math.nan,
            overhead_s=file.number("overhead_s", at_most=MAX_STEP_S, default=0.0),
            calibration=_calibration(file.object("calibration")) if file.has("calibration") else None,
            grid=_grid(file.object("grid")) if file.has("grid") else None,
            kv_law=_law(file.object("kv_cache")) if file.has("kv_cache") else None,
            server=ServerDefaults(**{key: file.integer(key) for key in _SERVER if file.has(key)}),
        )
    except InputError as problem:
        where = str(path)
        raise problem if where in str(problem) else InputError(f"{where}: {problem}") from None


def write_hardware(hardware: Hardware, path: Path | str) -> None:
    """Write `hardware` to a JSON file that `read_hardware` reads back exactly, a grid to six digits.

    Raises:
        InputError: the file cannot be written.
    """
    times = hardware.step_time
    values = {
        "version": VERSION,
        "name": hardware.name,
        "step_time": {name: float(getattr(times, name)) for name in COEFFICIENTS},
        "num_gpu_blocks": int(hardware.num_gpu_blocks),
        "block_size": int(hardware.block_size),
        "source": hardware.source,
        "relative_error": None if math.isnan(hardware.relative_error) else float(hardware.relative_error),
        **{key: value for key, value in asdict(hardware.server).items() if value is not None},
        **({} if hardware.overhead_s == 0 else {"overhead_s": float(hardware.overhead_s)}),
        **({} if hardware.calibration is None else {"calibration": _written(hardware.calibration)}),
        **({} if hardware.kv_law is None else {"kv_cache": _written_law(hardware.kv_law)}),
        **({} if hardware.grid is None else {"grid": _written_grid(hardware.grid)}),
    }
    write_text(path, with_rows_on_lines(json.dumps(values, indent=2, ensure_ascii=False)))


def with_rows_on_lines(text: str) -> str:
    """A list of numbers on one line: a grid has thousands."""
    return re.sub(r"\[([-+.\de,\s]+)\]", lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"


def _written(calibration: Calibration) -> dict[str, Any]:
    """The calibration with a name for each half-width."""
    return asdict(calibration) | {"plus_minus": dict(zip(COEFFICIENTS, calibration.plus_minus, strict=True))}


def _written_grid(grid: StepGrid) -> dict[str, Any]:
    rounded = {name: np.char.mod(f"%.{GRID_DIGITS}g", getattr(grid, name)).astype(np.float64) for name in TABLES}
    return {"sequence_s": float(grid.sequence_s), **{name: table.tolist() for name, table in rounded.items()}}


def _grid(entry: JsonObject) -> StepGrid:
    entry.refuse_others(PARTS)
    tables = {
        name: entry.numbers(name, at_least=-MAX_STEP_S, at_most=MAX_STEP_S, axes=1 if name == "shared_s" else 2)
        for name in TABLES
    }
    return StepGrid(**tables, sequence_s=entry.number("sequence_s", at_most=MAX_STEP_S, default=0.0))


def _written_law(law: KvLaw) -> dict[str, Any]:
    groups = [{key: value for key, value in asdict(group).items() if value is not None} for group in law.groups]
    return {"dtype": asdict(law.dtype), "bytes_per_block": law.bytes_per_block, "groups": groups}


def _law(entry: JsonObject) -> KvLaw:
    entry.refuse_others(_KV_KEYS)
    groups = tuple(_group(group) for group in entry.objects("groups"))
    if not groups:
        raise entry.error("groups", "is empty; leave kv_cache out where the groups are not known")
    bytes_per_block = entry.integer("bytes_per_block", at_least=0, default=0)
    return KvLaw(groups, bytes_per_block, _dtype(entry.object("dtype")) if entry.has("dtype") else KvDtype())


def _dtype(entry: JsonObject) -> KvDtype:
    entry.refuse_others(_DTYPE_KEYS)
    name, source = entry.text("name", default=""), entry.text("source", default="")
    check_name("KV dtype", name + source)
    return KvDtype(name, entry.integer("element_bytes", at_most=4, default=2), source)


def _group(entry: JsonObject) -> KvGroup:
    entry.refuse_others(_GROUP_KEYS)
    kind: Any = entry.text("kind")
    if kind not in KIND_TITLES:
        raise entry.error("kind", f"= {kind!r} is not one of {', '.join(KIND_TITLES)}")
    windowed = kind in ("sliding", "chunked")
    if windowed != entry.has("reach"):
        raise entry.error("reach", "belongs to sliding and chunked groups, and to no other")
    return KvGroup(
        kind,
        layers=entry.integer("layers", at_most=MAX_LAYERS),
        block_size=entry.integer("block_size", at_most=MAX_BLOCK_SIZE),
        reach=entry.integer("reach", at_most=MAX_KV_TOKENS) if windowed else None,
        copies=entry.integer("copies", at_most=MAX_LAYERS, default=2),
    )


def _calibration(entry: JsonObject) -> Calibration:
    entry.refuse_others(_CALIBRATION_KEYS)
    known, correlation = _correlation(entry)
    widths = entry.object("plus_minus")
    widths.refuse_others(COEFFICIENTS[:known])
    tokens, kv_tokens = (
        tuple(entry.numbers(key, (2,), at_most=MAX_KV_TOKENS).tolist()) for key in ("tokens", "kv_tokens")
    )
    return Calibration(
        steps=entry.integer("steps"),
        plus_minus=tuple(
            widths.number(name, at_most=MAX_STEP_S) if widths.has(name) else None for name in COEFFICIENTS[:known]
        )
        + (0.0,) * (len(COEFFICIENTS) - known),
        correlation=tuple(tuple(row) for row in correlation.tolist()),
        misfit=entry.number("misfit"),
        tokens=tokens,
        kv_tokens=kv_tokens,
    )


def _correlation(entry: JsonObject) -> tuple[int, FloatArray]:
    """How many coefficients the file knows, and the correlation of all; the others have none."""
    written = entry.numbers("correlation", at_least=-1.001, at_most=1.001, axes=2)
    known = WITHOUT_C_SEQ if written.shape == (WITHOUT_C_SEQ, WITHOUT_C_SEQ) else len(COEFFICIENTS)
    if written.shape != (known, known):
        raise entry.error("correlation", f"has shape {written.shape}, not {(known, known)}")
    correlation = np.eye(len(COEFFICIENTS))
    correlation[:known, :known] = written
    return known, correlation
