"""`Workload`: what arrives, when, and how long it is. Plain arrays, validated once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.bounds import MAX_COUNT, MAX_RATE, MAX_SECONDS, check_name, check_whole
from fluidgate.errors import InputError
from fluidgate.workload._turns import bridged, first_turn_of, renumbered

TIMEOUTS = ("timeout_s", "ttft_timeout_s")
"""Columns of a `Workload` that say how long clients wait."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in order of arrival: an open loop, or, with `concurrency` or `after`, one that waits for replies.

    Attributes:
        arrival_s: arrival times, shape (n,), seconds from the start, non-decreasing; where replies are waited for, the
            earliest times at which requests are sent.
        prompt_tokens: prompt lengths, shape (n,), tokens, at least 1.
        output_tokens: output lengths, shape (n,), tokens, at least 1.
        class_id: class of each request, shape (n,), an index into `class_names`.
        class_names: one name per class.
        prefix_ids: content ids of the prompts' leading blocks, all requests concatenated. Equal ids mean
            equal content of the block *and of everything before it* (Mooncake's `hash_ids`).
        prefix_offsets: shape (n + 1,); request i owns `prefix_ids[prefix_offsets[i]:prefix_offsets[i + 1]]`.
        prefix_block_tokens: tokens per prefix block; 0 when the workload carries no content ids.
        timeout_s: how long each client waits for its last token, shape (n,), seconds from sending; infinite: for as
            long as it takes. Empty, as `ttft_timeout_s` then is too, where no client gives up.
        ttft_timeout_s: how long it waits for the first token, in the same way.
        name: what it is, for tables and reports.
        concurrency: most requests in flight; others that are due wait at the client, in order of when they became due.
            None: no limit.
        after: row of the turn before, −1 where there is none, shape (n,); empty without sessions. A turn comes after
            that row, and is due at the later of its arrival and `delay_s` after the last token of that turn.
        delay_s: time to think, from the reply before a turn to the turn, shape (n,), seconds; 0 where `after` is −1.
        ids_cover_replies: `prefix_ids` go on through a request's reply and name its tokens too, so that later turns
            find them in the cache; else they name tokens of the prompt only.
        refused: requests that came as well and that the server refused (`within`); None: none.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    class_id: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    class_names: tuple[str, ...] = ("all",)
    prefix_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    prefix_offsets: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    prefix_block_tokens: int = 0
    timeout_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    ttft_timeout_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    name: str = "workload"
    concurrency: int | None = None
    after: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    delay_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    ids_cover_replies: bool = False
    refused: Workload | None = None

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.arrival_s))
        if len(self.class_id) == 0:
            object.__setattr__(self, "class_id", np.zeros(n, np.int64))
        if len(self.prefix_offsets) == 0:
            object.__setattr__(self, "prefix_offsets", np.zeros(n + 1, np.int64))
        object.__setattr__(self, "arrival_s", _array(self.arrival_s, np.float64, "arrival_s"))
        object.__setattr__(self, "delay_s", _array(self.delay_s, np.float64, "delay_s"))
        for column in ("prompt_tokens", "output_tokens", "class_id", "prefix_ids", "prefix_offsets", "after"):
            object.__setattr__(self, column, _array(getattr(self, column), np.int64, column))
        self._set_timeouts(n)
        self._validate(n)

    def _set_timeouts(self, n: int) -> None:
        """Both columns full where a client gives up, both empty where none does."""
        given = {name: _array(getattr(self, name), np.float64, name) for name in TIMEOUTS}
        whole = {name: column if len(column) else np.full(n, np.inf) for name, column in given.items()}
        for name, column in whole.items():
            object.__setattr__(self, name, column)
            if len(column) != n:
                raise InputError(f"{self.name}: {name} has {len(column)} values for {n} arrivals; give one per request")
            self._refuse_where(~(column > 0), name, "is not a number of seconds above 0; leave a patient client's inf")
        if all(np.isinf(column).all() for column in whole.values()):
            for name in TIMEOUTS:
                object.__setattr__(self, name, np.zeros(0))

    def _validate(self, n: int) -> None:
        check_name("workload name", self.name)
        for name in self.class_names:
            check_name(f"{self.name}: class name", name)
        if n == 0:
            raise InputError(f"{self.name}: the workload is empty; it needs at least one request")
        for column in ("prompt_tokens", "output_tokens", "class_id"):
            if len(getattr(self, column)) != n:
                raise InputError(
                    f"{self.name}: {column} has {len(getattr(self, column))} values for {n} arrivals; "
                    "give one per request"
                )
        self._refuse_where(~np.isfinite(self.arrival_s), "arrival_s", "is not a finite number of seconds")
        self._refuse_where(self.arrival_s < 0, "arrival_s", "is negative; count seconds from the start")
        self._refuse_where(
            np.diff(self.arrival_s, prepend=self.arrival_s[0]) < 0,
            "arrival_s",
            "is before the request ahead of it; sort by arrival",
        )
        self._refuse_where(self.arrival_s > MAX_SECONDS, "arrival_s", "is beyond 272 years; give seconds")
        self._refuse_where(self.prompt_tokens < 1, "prompt_tokens", "must be at least 1 token")
        self._refuse_where(self.output_tokens < 1, "output_tokens", "must be at least 1 token")
        for column in ("prompt_tokens", "output_tokens"):
            self._refuse_where(getattr(self, column) > MAX_COUNT, column, f"must be at most {MAX_COUNT:,}")
        self._refuse_where(
            (self.class_id < 0) | (self.class_id >= len(self.class_names)),
            "class_id",
            f"is not one of the {len(self.class_names)} classes in class_names",
        )
        offsets = self.prefix_offsets
        if len(offsets) != n + 1 or offsets[0] != 0 or offsets[-1] != len(self.prefix_ids):
            raise InputError(f"{self.name}: prefix_offsets must have {n + 1} values from 0 to len(prefix_ids)")
        if (np.diff(offsets) < 0).any():
            raise InputError(
                f"{self.name}: prefix_offsets fall at request {np.argmax(np.diff(offsets) < 0)}; sort them"
            )
        if len(self.prefix_ids) and self.prefix_block_tokens < 1:
            raise InputError(f"{self.name}: prefix_ids need prefix_block_tokens, the tokens per prefix block")
        if self.concurrency is not None:
            check_whole("concurrency", self.concurrency)
        self._validate_sessions(n)

    def _validate_sessions(self, n: int) -> None:
        if len(self.after) != len(self.delay_s) or len(self.after) not in (0, n):
            raise InputError(
                f"{self.name}: after and delay_s have {len(self.after)} and {len(self.delay_s)} values for {n} "
                "requests; give both with one per request, or neither"
            )
        if not self.has_sessions:
            return
        self._refuse_where(
            (self.after >= np.arange(n)) | (self.after < -1), "after", "is not a row before it, and not -1 for none"
        )
        wrong = ~((self.delay_s >= 0) & (self.delay_s <= MAX_SECONDS))
        self._refuse_where(wrong, "delay_s", "is not a number of seconds, at least 0")
        self._refuse_where((self.after < 0) & (self.delay_s > 0), "delay_s", "is after no turn; set it to 0")

    def _refuse_where(self, bad: BoolArray, column: str, why: str) -> None:
        if bad.any():
            i = int(np.argmax(bad))
            raise InputError(f"{self.name}: request {i}: {column} = {getattr(self, column)[i]} {why}")

    @classmethod
    def from_table(
        cls,
        table: Any,
        columns: Mapping[str, str] | None = None,
        *,
        time_unit: str | None = None,
        failed: str = "stop",
        name: str = "table",
    ) -> Workload:
        """The requests of a table, in order of arrival, the first at 0.

        Args:
            table: pandas', polars' or Arrow's, or any other with `__arrow_c_stream__`; or arrays by name.
            columns: names of columns by what they are (time, prompt, output, class, session, timeout, ttft_timeout),
                where they are not found by their names; "none": the table has no such column.
            time_unit: "s", "ms", "us" or "ns", of times that are numbers, where it is not certain.
            failed: "stop" at a request without output, or "drop" such requests.

        Raises:
            InputError: a column that is needed is not found, a unit is not certain, or a value cannot be used.
        """
        from fluidgate.workload.logs import in_order, read_requests, table_of

        log = table_of(table, name)
        return cls(name=name, **in_order(read_requests(log, columns=columns, time_unit=time_unit, failed=failed)))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def gives_up(self) -> bool:
        """Whether some client gives up in finite time."""
        return len(self.timeout_s) > 0

    @property
    def offered(self) -> int:
        """All requests that came: these, and those that were refused."""
        return len(self) + (0 if self.refused is None else len(self.refused))

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the last arrival."""
        return float(self.arrival_s[-1])

    @property
    def has_sessions(self) -> bool:
        """Whether turns wait for the replies before them."""
        return len(self.after) > 0

    @property
    def is_closed(self) -> bool:
        """Whether replies decide when requests are sent."""
        return self.concurrency is not None or self.has_sessions

    @property
    def first_turns(self) -> IntArray:
        """Rows that begin a session, in order; all rows without sessions."""
        return np.flatnonzero(self.after < 0) if self.has_sessions else np.arange(len(self))

    @property
    def rate(self) -> float:
        """Mean arrival rate in requests per second; infinite when all arrive at once, or as good as that.

        With sessions their own arrival rate × requests per session: what is offered in the long run where all are
        answered.
        """
        begun = self.arrival_s[self.after < 0] if self.has_sessions else self.arrival_s
        span, count = float(begun[-1] - begun[0]), (len(begun) - 1) * len(self) / len(begun)
        return count / span if span * MAX_RATE >= count > 0 else float("inf")

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the content."""
        h = hashlib.sha256()
        columns = ["arrival_s", "prompt_tokens", "output_tokens", "class_id", "prefix_ids", "prefix_offsets"]
        for column in columns + ["after", "delay_s"] * self.has_sessions + [*TIMEOUTS] * self.gives_up:
            h.update(np.ascontiguousarray(getattr(self, column)).tobytes())
        if self.concurrency is not None or self.ids_cover_replies:
            h.update(f"{self.concurrency} {self.ids_cover_replies}".encode())
        return h.hexdigest()[:12]

    def scaled(self, rate_scale: float) -> Workload:
        """The same requests arriving `rate_scale` times as fast; of a session its begin, times within it stay."""
        if not (np.isfinite(rate_scale) and rate_scale > 0):
            raise InputError(f"rate scale {rate_scale} must be a finite number above 0")
        if not self.duration_s / float(rate_scale) <= MAX_SECONDS:
            raise InputError(f"rate scale {rate_scale:g} stretches {self.name} beyond 272 years; take a larger one")
        return replace(
            self.begun_at(self.arrival_s[self.first_turns] / rate_scale),
            name=f"{self.name} ×{rate_scale:g}",
            refused=self.refused and self.refused.scaled(rate_scale),
        )

    def begun_at(self, first_s: FloatArray) -> Workload:
        """The same requests; those at `first_turns` arrive at `first_s`, further turns as long after them as before."""
        if not self.has_sessions:
            return replace(self, arrival_s=first_s)
        root, begun_s = first_turn_of(self.after), np.zeros(len(self))
        begun_s[self.first_turns] = first_s
        arrival_s = begun_s[root] + (self.arrival_s - self.arrival_s[root])
        order = np.argsort(arrival_s, kind="stable")
        return replace(self.reordered(order, arrival_s[order]), refused=self.refused)

    def within(self, max_model_len: int | None) -> Workload:
        """What a server takes whose longest request has `max_model_len` tokens, prompt and output; None: all.

        The others are its `refused`, and arrivals stay as they were. A server answers them with HTTP 400 at once; vLLM
        from 0.32 on only those whose prompt or output alone is too long, and cuts the others' answers. A refused turn
        is answered as it is sent, so that the turn after it follows at its delay from then.

        Raises:
            InputError: it takes none of them.
        """
        too_long = longer_than(max_model_len, self.prompt_tokens, self.output_tokens, self.name)
        if not too_long.any():
            return self
        rows = np.flatnonzero(too_long)
        refused = self.reordered(rows, self.arrival_s[rows]).as_open_loop()
        taken = self._without(too_long)
        return replace(taken, refused=refused if self.refused is None else refused._with(self.refused))

    def _without(self, gone: BoolArray) -> Workload:
        """The other requests; sessions go on without the turns that are gone."""
        rows = np.flatnonzero(~gone)
        if not self.has_sessions:
            return self.reordered(rows, self.arrival_s[rows])
        after, delay_s, arrival_s = bridged(self.after, self.delay_s, self.arrival_s, gone)
        rows = rows[np.argsort(arrival_s[rows], kind="stable")]
        return replace(self, after=after, delay_s=delay_s).reordered(rows, arrival_s[rows])

    def as_open_loop(self) -> Workload:
        """The same requests, each sent at its arrival, whatever is in flight."""
        return replace(self, concurrency=None, after=np.zeros(0, np.int64), delay_s=np.zeros(0))

    def _with(self, others: Workload) -> Workload:
        """These and other requests in order of arrival, without content ids."""
        order = np.argsort(np.concatenate((self.arrival_s, others.arrival_s)), kind="stable")

        def column(name: str) -> Any:
            return np.concatenate((getattr(self, name), getattr(others, name)))[order]

        def patience(name: str) -> Any:
            whole = (getattr(load, name) if load.gives_up else np.full(len(load), np.inf) for load in (self, others))
            return np.concatenate(list(whole))[order]

        return Workload(
            column("arrival_s"),
            column("prompt_tokens"),
            column("output_tokens"),
            column("class_id"),
            self.class_names,
            timeout_s=patience("timeout_s"),
            ttft_timeout_s=patience("ttft_timeout_s"),
            name=self.name,
        )

    def take(self, index: IntArray | BoolArray | slice) -> Workload:
        """The requests at `index` (kept in order of arrival), with times counted from the first of them.

        A turn whose turn before is not among them begins a session.
        """
        rows = np.sort(np.arange(len(self))[index])
        if len(rows) == 0:
            raise InputError(f"{self.name}: the slice holds no request; widen it")
        return self.reordered(rows, self.arrival_s[rows] - self.arrival_s[rows[0]])

    def reordered(self, rows: IntArray, arrival_s: FloatArray) -> Workload:
        """The requests `rows` (any order, repeats allowed) arriving at `arrival_s`, without what was refused.

        A turn follows the copy of its turn before that has as many copies ahead of it, if that is ahead of the turn;
        else it begins a session.
        """
        counts = np.diff(self.prefix_offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        after, delay_s = renumbered(self.after, self.delay_s, rows)
        return replace(
            self,
            arrival_s=arrival_s,
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            class_id=self.class_id[rows],
            **{name: getattr(self, name)[rows] for name in TIMEOUTS if self.gives_up},
            prefix_ids=self.prefix_ids[np.repeat(self.prefix_offsets[rows], counts) + within],
            prefix_offsets=offsets,
            after=after,
            delay_s=delay_s,
            refused=None,
        )

    def between(self, start_s: float, end_s: float) -> Workload:
        """The requests that arrive in [start_s, end_s)."""
        return self.take((self.arrival_s >= start_s) & (self.arrival_s < end_s))

    def classed_by_length(self, output_edges: list[int], prompt_edges: list[int] | None = None) -> Workload:
        """Classes from length bins: an edge e opens a bin above e (so `[100]` gives ≤100 and >100)."""
        prompt_edges = prompt_edges or []
        for edges in (output_edges, prompt_edges):
            if any(b <= a for a, b in pairwise(edges)) or any(e < 1 for e in edges):
                raise InputError(f"length edges {edges} must rise and be at least 1 token")
        by_output = np.searchsorted(output_edges, self.output_tokens, side="left")
        by_prompt = np.searchsorted(prompt_edges, self.prompt_tokens, side="left")
        names = tuple(
            " ".join(part for part in (prompt, output) if part)
            for prompt in _bin_names("p", prompt_edges)
            for output in _bin_names("d", output_edges)
        )
        class_id = by_prompt * (len(output_edges) + 1) + by_output
        return replace(self, class_id=class_id, class_names=names)


def _bin_names(letter: str, edges: list[int]) -> list[str]:
    if not edges:
        return [""] if letter == "p" else [f"{letter}>0"]
    inner = [f"{letter}{a + 1}-{b}" for a, b in pairwise(edges)]
    return [f"{letter}≤{edges[0]}", *inner, f"{letter}>{edges[-1]}"]


def _array(values: Any, dtype: type, column: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{column} must be one-dimensional, not of shape {array.shape}")
    if dtype is np.int64 and array.dtype.kind == "f" and not np.all(array == np.floor(array)):
        raise InputError(f"{column} must hold whole numbers")
    if array.dtype.kind not in "iufb":
        raise InputError(f"{column} must hold numbers, not {array.dtype}")
    out: NDArray[Any] = np.ascontiguousarray(array, dtype=dtype)
    return out.copy() if out is values else out


def longer_than(max_model_len: int | None, prompt_tokens: IntArray, output_tokens: IntArray, name: str) -> BoolArray:
    """Which requests (or types of them) have more tokens, prompt and output, than a model takes; None: it takes any.

    Raises:
        InputError: all of them.
    """
    too_long: BoolArray = prompt_tokens + output_tokens > (max_model_len or np.inf)
    if too_long.any() and too_long.all():
        raise InputError(
            f"{name}: every request has more than the {max_model_len:,} tokens, prompt and output, that the model "
            "takes (max_model_len), so a server refuses them all; raise it, or use a model with a longer context"
        )
    return too_long
