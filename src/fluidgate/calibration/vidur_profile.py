"""Vidur's profile files: measured operators of one model on one kind of GPU, in milliseconds.

Source: microsoft/vidur, `data/profiling`: `mlp.csv` (linear operations and norms by tokens), `attention.csv` (prefill
attention by chunk and context, decode attention by batch and context) and, for tensor parallelism, `all_reduce.csv`
(by bytes). Every row has the times of one layer on one GPU; of several runs Vidur takes the median, and so is it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray
from fluidgate.bounds import MAX_STEP_S
from fluidgate.calibration.csv_rows import read_rows
from fluidgate.errors import InputError
from fluidgate.hardware.model_config import ModelShape
from fluidgate.words import listed, shown

LINEAR = (
    *("input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj"),
    *("post_attention_layernorm", "mlp_up_proj", "mlp_act", "mlp_down_proj", "add"),
)
"""What Vidur counts of a layer besides attention."""
OPTIONAL = ("input_layernorm", "post_attention_layernorm", "add", "attn_kv_cache_save")
"""Of older profiles some have no column; Vidur counts nothing for them."""
TP, ALL_REDUCE_BYTES = "num_tensor_parallel_workers", 2
MS_PER_S = 1e3


class Points(NamedTuple):
    """Measured times of an operator, ms: by tokens (`at`), or by tokens or requests and the context of each."""

    at: FloatArray
    context: FloatArray
    ms: FloatArray


@dataclass(frozen=True, eq=False)
class VidurProfile:
    """The measured operators of a layer.

    Attributes:
        linear: each operation of `LINEAR`, by tokens.
        kv_save: writing the KV of new tokens, by tokens.
        prefill: attention of one prompt's chunk, by its tokens and those before it.
        decode: attention of decodes, by their number and context length.
        all_reduce: adding up activations, by tokens; None without tensor parallelism.
    """

    linear: Mapping[str, Points]
    kv_save: Points
    prefill: Points
    decode: Points
    all_reduce: Points | None


def read_vidur_profile(
    mlp: Path, attention: Path, shape: ModelShape, *, tp: int = 1, block_size: int = 16, all_reduce: Path | None = None
) -> VidurProfile:
    """The operators of a model, out of files that may hold several.

    Raises:
        InputError: no such file, a missing column, a value that is no time, or nothing measured of this model, tensor
            parallelism or block size; names the file and the line.
    """
    linear = read_linear(mlp, shape, tp)
    blocks = _model(shape, tp) | {"n_q_head": shape.heads, "block_size": block_size}
    attended = _Table(attention, "Vidur's attention.csv").of(blocks)
    is_prefill = attended.flags("is_prefill")
    batch, chunk = attended.numbers("batch_size", 1), attended.numbers("prefill_chunk_size")
    context = attended.numbers("kv_cache_size")
    prompts = is_prefill & (batch == 1) & (chunk > 0)  # Vidur computes others from those of one prompt
    return VidurProfile(
        linear=linear,
        kv_save=attended.times("attn_kv_cache_save", np.maximum(chunk, batch)),
        prefill=attended.times("attn_prefill", chunk, context, prompts),
        decode=attended.times("attn_decode", batch, context, ~is_prefill),
        all_reduce=_all_reduce(all_reduce, shape, tp),
    )


def read_linear(mlp: Path, shape: ModelShape, tp: int = 1) -> dict[str, Points]:
    """Each operation of `LINEAR`, by tokens. Arguments and errors: see `read_vidur_profile`."""
    widths = {"n_head": shape.heads, "n_expanded_embd": shape.intermediate_size}
    table = _Table(mlp, "Vidur's mlp.csv").of(_model(shape, tp) | widths)
    tokens = table.numbers("num_tokens", 1)
    return {name: table.times(name, tokens) for name in LINEAR}


def _model(shape: ModelShape, tp: int) -> dict[str, int]:
    return {"n_embd": shape.hidden_size, "n_kv_head": shape.kv_heads, TP: tp}


def _all_reduce(path: Path | None, shape: ModelShape, tp: int) -> Points | None:
    """Times of adding up the activations of so many tokens over `tp` GPUs."""
    if (path is None) != (tp == 1):
        raise InputError(
            f"tensor parallelism adds activations up: give tp > 1 (--tp) and Vidur's all_reduce.csv (--all-reduce), or "
            f"neither; tp is {tp}"
        )
    if path is None:
        return None
    table = _Table(path, "Vidur's all_reduce.csv").of({"num_workers": tp, "devices_per_node": tp})
    tokens = table.numbers("size", 1) / (ALL_REDUCE_BYTES * shape.hidden_size)
    return table.times("all_reduce", tokens)


class _Table:
    """Rows of a CSV file by column name."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        rows = read_rows(path, what)
        if len(rows) < 2:
            raise InputError(f"{path}:1: a header and no rows; give {what}")
        header = rows[0][1]
        self.places = {name: i for i, name in enumerate(header)}
        self.rows = rows[1:]
        for line, cells in self.rows:
            if len(cells) != len(header):
                raise InputError(
                    f"{path}:{line}: {len(cells)} fields where the header has {len(header)}; correct or remove the line"
                )

    def cells(self, column: str) -> list[tuple[int, str]]:
        """Line numbers and texts of a column."""
        if column not in self.places:
            raise InputError(f"{self.path}:1: no column {column} in the header; give {self.what}")
        place = self.places[column]
        return [(line, cells[place]) for line, cells in self.rows]

    def numbers(self, column: str, least: float = 0.0, most: float = 2.0**40) -> FloatArray:
        """A column of numbers."""
        return np.array([self._number(column, line, text, least, most) for line, text in self.cells(column)])

    def _number(self, column: str, line: int, text: str, least: float, most: float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (isfinite(value) and least <= value <= most):
            raise InputError(
                f"{self.path}:{line}: {column} = {shown(text)} must be a number between {least:g} and {most:g}; "
                "correct or remove the line"
            )
        return value

    def flags(self, column: str) -> BoolArray:
        """A column of True and False."""
        for line, text in self.cells(column):
            if text not in ("True", "False"):
                raise InputError(
                    f"{self.path}:{line}: {column} = {shown(text)} must be True or False; correct the line"
                )
        return np.array([text == "True" for _, text in self.cells(column)])

    def of(self, wanted: Mapping[str, int]) -> _Table:
        """The rows with these values."""
        columns = {name: self.numbers(name) for name in wanted}
        match = np.all([columns[name] == value for name, value in wanted.items()], axis=0)
        if not match.any():
            measured = dict.fromkeys(zip(*(column.tolist() for column in columns.values()), strict=True))
            raise InputError(
                f"{self.path}: nothing is measured with {_assigned(columns, tuple(wanted.values()))}; it has "
                f"{'; '.join(_assigned(columns, values) for values in list(measured)[:4])}: name the model, --tp and "
                "--block-size of the profile"
            )
        table = object.__new__(_Table)
        table.path, table.what, table.places = self.path, self.what, self.places
        table.rows = [row for row, is_wanted in zip(self.rows, match, strict=True) if is_wanted]
        return table

    def times(
        self, operator: str, at: FloatArray, context: FloatArray | None = None, where: BoolArray | None = None
    ) -> Points:
        """The medians of an operator where it was measured, ms, at least at two places."""
        column = f"time_stats.{operator}.median"
        if operator in OPTIONAL and column not in self.places:
            return Points(np.array([1.0]), np.zeros(1), np.zeros(1))
        texts = self.cells(column)
        context = np.zeros(len(at)) if context is None else context
        rows = [i for i, (_, text) in enumerate(texts) if text and (where is None or where[i])]
        if len(set(at[rows].tolist())) < 2:
            raise InputError(f"{self.path}: {column} was measured at fewer than two sizes; give a whole {self.what}")
        ms = np.array([self._number(column, *texts[i], 0.0, MAX_STEP_S * MS_PER_S) for i in rows])
        return _medians(at[rows], context[rows], ms)


def _assigned(names: Sequence[str] | Mapping[str, object], values: Sequence[float]) -> str:
    return listed([f"{name} = {value:g}" for name, value in zip(names, values, strict=True)])


def _medians(at: FloatArray, context: FloatArray, ms: FloatArray) -> Points:
    """One time for each place, in order."""
    places, which = np.unique(np.column_stack((at, context)), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    counts = np.bincount(which.ravel())
    groups = np.split(ms[order], np.cumsum(counts)[:-1])
    return Points(places[:, 0], places[:, 1], np.array([np.median(group) for group in groups]))
