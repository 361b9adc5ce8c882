"""Small cases for the parity tests. A failing case prints as one line that can be pasted into a test."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from fluidgate import policies
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.policies import Policy
from fluidgate.workload import Workload

TICK_S = 1 / 64

STEP_TIMES = (StepTime(4 * TICK_S), StepTime(0.01, 1e-4, 1e-6, 1e-8, 3e-5))
"""With the first, steps end on the grid of arrivals, so that the two tie."""

MORE = int(os.environ.get("FLUIDGATE_PARITY_EXAMPLES", "0"))
"""Generated workloads per file, other ones in every run; 0: a fixed set."""

SHARE = float(os.environ.get("FLUIDGATE_PARITY_SHARE", "1"))
"""Part of the fixed set that is generated, above 0 and at most 1: for versions that are tested beside the main one."""


def examples(default: int, *, of: int) -> settings:
    """Hypothesis settings for a test that makes `default` examples out of the `of` that its file makes in all."""
    return settings(
        max_examples=max(1, round(SHARE * default), MORE * default // of),
        derandomize=not MORE,
        deadline=None,
        print_blob=True,
    )


@dataclass(frozen=True, repr=False)
class Case:
    """A workload, hardware and engine limits.

    Attributes:
        requests: (arrival in ticks, prompt tokens, output tokens), in order of arrival.
        blocks: KV blocks that hold tokens.
        prefixes: content ids of each request's leading blocks of `unit` tokens.
        config: what differs from `EngineConfig()`.
        timeouts: per request, ticks to the last and to the first token after which its client leaves; 0: never.
        groups: of layers; none: one, which keeps every token.
    """

    requests: list[tuple[int, int, int]]
    blocks: int
    block_size: int = 16
    prefixes: list[list[int]] = field(default_factory=list)
    unit: int = 0
    step: StepTime = STEP_TIMES[0]
    config: dict[str, Any] = field(default_factory=dict)
    timeouts: list[tuple[int, int]] = field(default_factory=list)
    groups: tuple[KvGroup, ...] = ()

    def __repr__(self) -> str:
        default = Case([], 0)
        shown = [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]
        return f"Case({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis would show every field

    @property
    def workload(self) -> Workload:
        """The requests as arrays."""
        arrival, prompt, output = np.array(self.requests).T
        shared: dict[str, Any] = {}
        if any(self.prefixes):
            shared["prefix_ids"] = np.array([i for chain in self.prefixes for i in chain])
            shared["prefix_offsets"] = np.cumsum([0, *map(len, self.prefixes)])
            shared["prefix_block_tokens"] = self.unit
        if self.timeouts:
            shared |= timeouts(self.timeouts)
        return Workload(arrival * TICK_S, prompt, output, name="generated", **shared)

    @property
    def hardware(self) -> Hardware:
        """`blocks` usable ones and the null block."""
        law = KvLaw(self.groups) if self.groups else None
        block_size = law.block_size if law else self.block_size
        return Hardware("generated", self.step, self.blocks + 1, block_size, kv_law=law)

    @property
    def engine(self) -> EngineConfig:
        """The limits."""
        return EngineConfig(**self.config)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    crowded: bool = False,
    shared: bool = False,
    impatient: bool = False,
    configs: st.SearchStrategy[dict[str, Any]] | None = None,
) -> Case:
    """Small cases.

    Args:
        crowded: short prompts that grow together and a cache that they outgrow, so that residents are evicted.
        shared: prompts from a tree of prefixes.
        impatient: clients that give up.
        configs: engine limits; by default any of mode vllm.
    """
    block_size = draw(st.sampled_from([16, 1, 32]))
    least = 5 if crowded else 1
    requests = draw(st.lists(requests_near(block_size, crowded), min_size=least, max_size=14))
    arrival = np.cumsum([gap for gap, *_ in requests]).tolist()
    lengths = [(prompt, output) for _, prompt, output, *_ in requests]
    largest = max(-(-(prompt + output - 1) // block_size) for prompt, output in lengths)
    few = st.integers(0, 8)
    prefixes, unit = draw(prefix_chains([r[3:] for r in requests], lengths, block_size)) if shared else ([], 0)
    return Case(
        [(at, prompt, output) for at, (prompt, output) in zip(arrival, lengths, strict=True)],
        blocks=largest + draw(few if crowded else st.one_of(st.integers(0, 2), few, st.integers(0, 200))),
        block_size=block_size,
        prefixes=prefixes,
        unit=unit,
        step=draw(st.sampled_from(STEP_TIMES)),
        config=draw(configs if configs is not None else vllm_configs(crowded)),
        timeouts=draw(timeouts_of(len(requests))) if impatient else [],
    )


_TICKS = st.sampled_from([0, 1, 4, 8, 12, 30, 64, 100, 200])


def timeouts_of(requests: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """`Case.timeouts`. Iterations of the first of `STEP_TIMES` last 4 ticks: deadlines may be moments of tokens."""
    return st.lists(st.tuples(_TICKS, st.just(0) | _TICKS), min_size=requests, max_size=requests)


def timeouts(ticks: list[tuple[int, int]]) -> dict[str, Any]:
    """`Case.timeouts` as columns of a `Workload`."""
    timeout_s = np.array(ticks).T * TICK_S
    return dict(zip(("timeout_s", "ttft_timeout_s"), np.where(timeout_s > 0, timeout_s, np.inf), strict=True))


def requests_near(block_size: int, crowded: bool) -> st.SearchStrategy[tuple[Any, ...]]:
    """(ticks since the arrival before, prompt tokens, output tokens, path in the tree of prefixes, its length)."""
    gap = st.sampled_from([0, 0, 0, 1, 2, 4, 8, 40])
    whole_blocks = st.integers(1, 2 if crowded else 6).map(lambda blocks: blocks * block_size)
    prompt = st.one_of(st.integers(1, 40), whole_blocks, st.integers(1, 40 if crowded else 200))
    one_block_more = st.integers(1, 3).map(lambda blocks: blocks * block_size + 1)
    output = st.integers(20, 90) if crowded else st.one_of(st.integers(1, 60), one_block_more)
    path = st.lists(st.integers(0, 1), min_size=6, max_size=6)
    return st.tuples(gap, prompt, output, path, st.integers(0, 6))


@st.composite
def prefix_chains(
    draw: st.DrawFn, paths: list[tuple[list[int], int]], lengths: list[tuple[int, int]], block_size: int
) -> tuple[list[list[int]], int]:
    """Chains of content ids: equal ids mean equal content up to there; the last part of a prompt may be partial."""
    unit = draw(st.sampled_from([4, 8])) if block_size == 1 else block_size * draw(st.sampled_from([1, 2, 4]))
    partial_is_own = draw(st.booleans())  # else an id names the whole part, of which a prompt holds the beginning
    number: dict[object, int] = {}
    chains = []
    for (path, depth), (prompt, _) in zip(paths, lengths, strict=True):
        chain = []
        for part in range(min(depth, -(-prompt // unit))):
            held = min(unit, prompt - part * unit) if partial_is_own else unit
            chain.append(number.setdefault((tuple(path[: part + 1]), held), len(number)))
        chains.append(chain)
    return chains, unit


def vllm_configs(crowded: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Every limit and switch of mode vllm; few seats only where nothing has to be crowded."""
    budget = st.one_of(st.none(), st.integers(5 if crowded else 1, 40), st.sampled_from([16, 64, 300]))
    return limits(
        max_num_seqs=st.sampled_from([256, 256, 12, 8] if crowded else [256, 256, 256, 1, 2, 4]),
        max_num_active_seqs=st.sampled_from([None, None, 6, 8] if crowded else [None, None, None, 1, 2, 3]),
        max_num_batched_tokens=budget,
        long_prefill_token_threshold=st.sampled_from([0, 0, 1, 5, 16, 50]),
    )


def other_configs(mode: str, crowded: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """Limits of the modes that vLLM does not have; prefill-first needs a budget for a whole request."""
    budget = st.integers(1, 64) if mode == "sarathi" else st.sampled_from([300, 400, 1000])
    return limits(
        mode=st.just(mode),
        max_num_seqs=st.sampled_from([256, 256, 12, 8] if crowded else [256, 256, 2, 4]),
        max_num_batched_tokens=st.one_of(st.none(), budget),
        preemption=st.sampled_from(["recompute", "restart", "offload"]),
    )


def limits(**own: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """What every mode has, and `own`; values that are defaults are left out, for readers."""
    common = {
        "watermark": st.sampled_from([None, None, 0.0, 0.01, 0.05, 0.2, 0.5]),
        "enable_prefix_caching": st.sampled_from([True, True, False]),
        "scheduler_reserve_full_isl": st.booleans(),
    }
    return st.fixed_dictionaries(common | own).map(_without_defaults)


def _without_defaults(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("max_num_active_seqs") is not None:
        config["max_num_active_seqs"] = min(config["max_num_active_seqs"], config["max_num_seqs"])
    default = EngineConfig()
    return {name: value for name, value in config.items() if value != getattr(default, name)}


def _whole(most: int) -> st.SearchStrategy[float]:
    return st.integers(1, most).map(float)


def _pace(most: float) -> st.SearchStrategy[float]:
    """Requests per iteration or per group, in sixteenths: short to print."""
    return st.integers(1, round(16 * most)).map(lambda sixteenths: sixteenths / 16)


_HOLD_S = st.sampled_from([0.0, TICK_S, 4 * TICK_S, 1.0])


@st.composite
def _staged(draw: st.DrawFn, make: Any, cuts: str, strict: bool) -> Policy:
    """`Wait` or `NestedWait` with one to three types or segments."""
    edges = draw(st.lists(_whole(40), max_size=2, unique=True).map(sorted))
    threshold = _whole(2) if strict else _pace(3)
    thresholds = draw(st.lists(threshold, min_size=len(edges) + 1, max_size=len(edges) + 1))
    made: Policy = make(draw(_HOLD_S), strict, tuple(thresholds), **{cuts: tuple(edges)})
    return made


_SEATS = _whole(6) | st.just(1024.0)
_RISING = st.lists(_whole(90), min_size=1, max_size=4, unique=True).map(lambda tokens: tuple(sorted(tokens)))


POLICIES: dict[str, st.SearchStrategy[Policy]] = {
    "greedy": st.just(policies.Greedy()),
    "concurrency-cap": st.builds(policies.ConcurrencyCap, _whole(6)),
    "fluid-volume": st.sampled_from([policies.FluidVolume(), policies.FluidVolume(patience_s=0.05)]),
    "fluid": st.sampled_from(
        [policies.Fluid(knob) for knob in (0.1, 0.0, 1.0)]
        + [policies.Fluid(0.1, (1.0,), (8.0,), (1.0, 9.0, 30.0))]
        + [
            policies.Fluid(0.1, (1.0,), (8.0,), (1.0, 9.0, 30.0), timeout_s, drop_residents=True)
            for timeout_s in (2.0, 20.0)
        ]
        + [policies.Fluid(ttft_timeout_s=3.0)]
        + [policies.Fluid(0.1, (0.5, 0.5), (8.0, 8.0), class_timeouts_s=(0.0, 4.0), class_weights=(1.0, 3.0))]
    ),
    "known-deadlines": st.builds(policies.KnownDeadlines, _SEATS),
    "lifo": st.just(policies.Lifo()),
    "queue-cap": st.builds(policies.QueueCap, st.sampled_from([0.0, 1.0, 3.0])),
    "codel": st.builds(policies.Codel, st.sampled_from([0.1, 1.0]), st.sampled_from([0.2, 2.0])),
    "known-lengths": st.builds(policies.KnownLengths, _SEATS),
    "mc-sf": st.builds(policies.McSf, _SEATS),
    "shortest-first": st.just(policies.ShortestFirst()),
    "smallest-volume-first": st.just(policies.SmallestVolumeFirst()),
    "a-min": st.builds(policies.AMin, _SEATS, _RISING),
    "expected-completions": st.builds(policies.ExpectedCompletions, st.sampled_from([1.5, 0.5, 3.0]), _RISING),
    "max-utilization": st.builds(
        policies.MaxUtilization, _whole(8) | st.just(0.0), st.sampled_from([0.0, 0.25, 0.5, 1.0])
    ),
    "no-evict": st.builds(policies.NoEvict, _whole(100)),
    "past-future": st.builds(
        policies.PastFuture,
        st.sampled_from([0.0, 0.05, 0.3]),
        _whole(20),
        _whole(8) | st.just(256.0),
        st.lists(_whole(90), min_size=1, max_size=4).map(tuple),
    ),
    "rate-limited": st.builds(policies.RateLimited, _pace(2)),
    "sglang": st.builds(policies.SGLang, _whole(100), st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    "watermark": st.builds(policies.Watermark, st.sampled_from([0.0, 0.05, 0.2, 0.5])),
    "wait": _staged(policies.Wait, "output_edges", strict=False),
    "wait, strict": _staged(policies.Wait, "output_edges", strict=True),
    "nested-wait": _staged(policies.NestedWait, "cuts", strict=False),
    "nested-wait, strict": _staged(policies.NestedWait, "cuts", strict=True),
}
"""Every built-in policy but `interval`, with parameters in the range where it acts on a small case."""
