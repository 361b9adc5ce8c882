"""The policy protocol: what a policy sees and what it may decide.

A policy is a frozen dataclass of parameters plus up to six decision functions. The functions are plain Python
that numba can compile, take only arrays and the tuples below, and keep no state of their own: what a run learns
lives in `memory`, an array that every run makes afresh.

    classify(params, request) -> int                  which of the policy's classes a request belongs to (default 0)
    rank(params, request) -> float                    order in its waiting queue (default: arrival)
    admit(params, memory, view, out_quota) -> float   how many waiting requests of each class may enter now
    advance(params, memory, view, out_mask) -> float  which residents run now (default: all); others keep their KV
    shed(params, memory, view, out_rows) -> float     which requests are given up for good (default: none)
    observe(params, memory, event) -> None            learn from arrivals, admissions, tokens, evictions, ends

`params.share` is the dataclass field `share`. The policies of this package index `params` instead: their compiled code
is kept, and one signature serves them all.
`admit`, `advance` and `shed` return the time (s) at which to ask again if nothing else happens, `inf` for none.
`out_quota` arrives filled with a number larger than any queue, `out_mask` with ones and `out_rows` with -1, so a
function writes only what it restricts. `shed` is asked just before `admit`, while somebody waits, and again when it has
filled `out_rows`. The engine's own limits (blocks, seats, token budget) always hold as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.errors import InputError
from fluidgate.policies.params import pack_fields

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan

ARRIVED, ADMITTED, FIRST_TOKEN, FINISHED, PREEMPTED, ABORTED, SHED = range(7)
"""Kinds of `Event`. A preempted request that comes back is admitted again; one that was aborted, by its client, or
shed, by the policy, is gone."""

SHED_AT_ONCE = 64
"""Rows that `shed` can name in one call."""

_NONE_KNOWN = np.zeros(0)

MANY = 1e12
"""More requests than any run has: a larger parameter may not fit an integer of compiled code."""


class Request(NamedTuple):
    """One request, as `classify` and `rank` see it."""

    row: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int  # -1 unless the policy declares `needs_output_length`
    class_id: int  # the workload's own label


class Event(NamedTuple):
    """Something that happened to a request, as `observe` sees it."""

    kind: int
    now_s: float
    row: int
    arrival_s: float
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int  # in KV: at admission, those found in the prefix cache
    class_id: int
    policy_class: int  # what `classify` said


class View(NamedTuple):
    """The engine before an iteration. Read-only. Request columns are indexed by row.

    `residents` lists the rows that hold KV, in the engine's order (last admitted last). `waiting_head[c]` is the
    first waiting row of the policy's class c (-1: none), `next_waiting[row]` the one behind it, and
    `waiting_count[c]` how many there are. A block is what `block_size` tokens of a request take where every layer
    keeps all of them; another pool is shown larger or smaller in proportion. `output_tokens` is -1 unless the policy
    declares `needs_output_length`. `timeout_s` and `ttft_timeout_s`, how long after its arrival a client waits for the
    last and the first token (infinity: for ever), are of size 0 unless the policy declares `needs_timeouts`.
    """

    now_s: float
    iteration: int
    free_blocks: int
    total_blocks: int
    block_size: int
    token_budget: int  # without limit on a decode-only server, where prompts take none of it
    max_num_seqs: int
    residents: IntArray
    waiting_head: IntArray
    waiting_count: IntArray
    next_waiting: IntArray
    arrival_s: FloatArray
    prompt_tokens: IntArray
    generated_tokens: IntArray
    computed_tokens: IntArray
    output_tokens: IntArray
    class_id: IntArray
    timeout_s: FloatArray = _NONE_KNOWN
    ttft_timeout_s: FloatArray = _NONE_KNOWN


@dataclass(frozen=True)
class Policy:
    """Base of all policies: parameters are the dataclass fields, decisions the functions below.

    Attributes:
        needs_output_length: the policy sees output lengths; without it the engine hides them.
        needs_timeouts: the policy sees timeouts, as if every client had said how long it waits.
        sheds: `shed` is asked; of a policy that has one, unless its parameters say otherwise.
        refusals_stand: where `admit` lets nobody in, it would again until a request arrives, enters, is evicted or
            leaves, or until the time that it returned; it is not asked in between, and the batch goes on unseen. Where
            it sheds it is asked in every iteration.
        renamed: parameters' former names, each with the present one; they are refused with it.
        may_idle: the policy may leave the engine idle with work forever (the paper's algorithms to the letter);
            a run then ends where nothing can happen any more instead of raising `Stalled`.
    """

    name: ClassVar[str] = "policy"
    needs_output_length: ClassVar[bool] = False
    refusals_stand: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {}

    classify: ClassVar[Callable[..., int] | None] = None
    rank: ClassVar[Callable[..., float] | None] = None
    admit: ClassVar[Callable[..., float] | None] = None
    advance: ClassVar[Callable[..., float] | None] = None
    shed: ClassVar[Callable[..., float] | None] = None
    observe: ClassVar[Callable[..., None] | None] = None

    @property
    def num_classes(self) -> int:
        """How many classes `classify` tells apart."""
        return 1

    @property
    def needs_timeouts(self) -> bool:
        """Whether the policy sees how long clients wait."""
        return False

    @property
    def sheds(self) -> bool:
        """Whether the policy may give requests up."""
        return type(self).shed is not None

    @property
    def may_idle(self) -> bool:
        """Whether the policy may hold requests forever (strict paper mode only)."""
        return False

    @property
    def engine_settings(self) -> dict[str, Any]:
        """Engine settings that are part of the policy, for example its watermark."""
        return {}

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The policy with its parameters set by the fluid plan; `overrides` are the user's own values."""
        return cls(**overrides)

    def pack(self) -> FloatArray:
        """The `params` of the decision functions: all fields in one array, in order; a tuple is preceded by its length.

        The array has the fields' names too: `params.share` is the field `share`.
        """
        return pack_fields({field.name: getattr(self, field.name) for field in fields(self)})

    def new_memory(self) -> FloatArray:
        """A fresh array of what the policy learns during one run."""
        return np.zeros(1)

    def latest_starts_s(self, memory: FloatArray) -> tuple[float, ...]:
        """By class, the age at which a request must start at the latest to be worth it, seconds; empty: no matter."""
        return ()

    def require(self, condition: bool, what: str) -> None:
        """Refuse a parameter with the policy's name and what to do."""
        if not condition:
            raise InputError(f"policy {self.name}: {what}")
