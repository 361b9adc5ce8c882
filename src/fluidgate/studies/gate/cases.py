"""The cases of the gate experiment: a workload and a machine each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from fluidgate.errors import InputError, unknown
from fluidgate.hardware import Hardware, StepTime, load_profile
from fluidgate.workload import (
    MMPP2,
    PRESETS,
    Fixed,
    Gamma,
    Independent,
    JointLengths,
    LognormalMixture,
    Poisson,
    Synthetic,
    Workload,
    generate,
    read_trace,
    resample,
)

BLOCK_TOKENS = 16

LOADED = (
    "p512-d20",
    "p512-d1000",
    "three-types",
    "three-types, unlabelled",
    "azure-conv-2023",
    "azure-code-2023",
    "r1-reasoning",
    "bursty, gamma CV 4",
    "bursty, MMPP",
    "drift",
)
"""Cases on the paper's machine, run over loads; `mooncake` joins them where its trace is given."""

CELLS = ("fixed", "three types", "chat", "reasoning", "three types, 16k", "chat, 16k", "reasoning, 40k")
"""Seven cells that span n* from 13 to 730 and η from 0.14 to 0.57, run saturated."""

FURTHER_CELLS = ("three types, 16k, unlabelled", "reasoning, 4090", "reasoning, 420k")
LONG_OUTPUTS = "long outputs"
MOONCAKE = "mooncake"


@dataclass(frozen=True)
class Case:
    """A workload on a machine; `draw` gives the workload of (requests, seed)."""

    name: str
    draw: Callable[[int, int], Workload]
    hardware: Hardware


def case(name: str, mooncake: Path | None = None) -> Case:
    """The case of a name.

    Args:
        mooncake: the Mooncake trace, for the case `mooncake`.

    Raises:
        InputError: an unknown case, or no trace for `mooncake`.
    """
    if name == MOONCAKE:
        if mooncake is None:
            raise InputError("case mooncake needs its trace: --mooncake conversation_trace.jsonl (see docs/gate.md)")
        return Case(name, lambda requests, seed: _replayed(mooncake, requests, seed), _paper_machine())
    cases = _cases()
    if name not in cases:
        raise unknown("case", name, [*cases, MOONCAKE])
    return cases[name]


@cache
def _cases() -> dict[str, Case]:
    paper = _paper_machine()
    chat = Independent(_lognormal(961, 1.0, 8_000), _lognormal(198, 1.0, 4_000))
    reasoning = Independent(_lognormal(199, 0.5, 2_000), _lognormal(1_998, 0.5, 9_000))
    long_outputs = Independent(Fixed(200), _lognormal(2_000, 0.6, 9_000))
    fixed = Independent(Fixed(512), Fixed(512))
    types, conversation = PRESETS["three-types"].lengths, PRESETS["azure-conv-2023"].lengths
    # The step times: 12 ms, 70 µs per prompt token, 30 µs per decode, 0.35 µs per KV token. One price
    # per token for all stands for the two, so that a request of mean lengths takes as long.
    rows = (
        ("fixed", fixed, _machine(110_000, 12e-3, 50.0e-6, 0.35e-6)),
        ("three types", types, _machine(110_000, 12e-3, 33.5e-6, 0.35e-6)),
        ("chat", chat, _machine(110_000, 12e-3, 63.2e-6, 0.35e-6)),
        ("reasoning", reasoning, _machine(110_000, 12e-3, 33.6e-6, 0.35e-6)),
        ("three types, 16k", types, _machine(16_000, 12e-3, 33.5e-6, 0.35e-6)),
        ("chat, 16k", chat, _machine(16_000, 12e-3, 63.2e-6, 0.35e-6)),
        ("reasoning, 40k", reasoning, _machine(40_000, 12e-3, 33.6e-6, 0.35e-6)),
        ("reasoning, 4090", reasoning, _machine(41_400, 18e-3, 50.0e-6, 0.145e-6)),
        ("reasoning, 420k", reasoning, _machine(420_000, 13e-3, 34.1e-6, 0.085e-6)),
        (LONG_OUTPUTS, long_outputs, _machine(40_000, 11.3e-3, 48.0e-6, 83e-9)),
        ("bursty, gamma CV 4", conversation, paper, Gamma(1.0, 4.0)),
        ("bursty, MMPP", conversation, paper, MMPP2(0.25, 2.5, 300.0, 150.0)),
    )
    cases = [
        Case(name, _drawing(name, lengths, *arrivals), hardware) for name, lengths, hardware, *arrivals in rows
    ] + [Case(name, _preset(name), paper) for name in LOADED if name in PRESETS]
    by_name = {entry.name: entry for entry in cases}
    for labelled in (by_name["three-types"], by_name["three types, 16k"]):
        name = f"{labelled.name}, unlabelled"
        by_name[name] = Case(name, _unlabelled(labelled.draw), labelled.hardware)
    by_name["drift"] = Case("drift", _drifting(by_name["azure-conv-2023"].draw), paper)
    return by_name


def _paper_machine() -> Hardware:
    """Its profile as fitted: no server's limits, so that requests of any length are taken, as the paper takes them."""
    return load_profile("llama-2-7b", "a100-80gb")


def _machine(kv_tokens: int, c0: float, c_tok: float, c_kv: float) -> Hardware:
    """A machine with an affine step time, seconds, and `kv_tokens` besides the null block."""
    step_time = StepTime(c0=c0, c_tok=c_tok, c_kv=c_kv)
    return Hardware(f"{kv_tokens:,} KV tokens", step_time, kv_tokens // BLOCK_TOKENS + 1, BLOCK_TOKENS)


def _lognormal(mean: float, sigma: float, high: int) -> LognormalMixture:
    """One component with a given mean before it is clipped to [1, high], tokens."""
    return LognormalMixture((1.0,), (float(np.log(mean) - sigma**2 / 2),), (sigma,), high=high)


def _drawing(name: str, lengths: JointLengths, arrivals: object = None) -> Callable[[int, int], Workload]:
    spec = Synthetic(name, arrivals or Poisson(1.0), lengths)  # type: ignore[arg-type]
    return lambda requests, seed: generate(spec, n=requests, seed=seed)


def _preset(name: str) -> Callable[[int, int], Workload]:
    return lambda requests, seed: generate(name, n=requests, seed=seed)


def _unlabelled(draw: Callable[[int, int], Workload]) -> Callable[[int, int], Workload]:
    def without_labels(requests: int, seed: int) -> Workload:
        labelled = draw(requests, seed)
        return replace(labelled, class_id=np.zeros(len(labelled), np.int64), class_names=("all",))

    return without_labels


def _drifting(draw: Callable[[int, int], Workload]) -> Callable[[int, int], Workload]:
    """Midway the rate doubles and outputs become three times as long."""

    def with_drift(requests: int, seed: int) -> Workload:
        steady = draw(requests, seed)
        later = np.arange(requests) >= requests // 2
        gaps_s = np.diff(steady.arrival_s, prepend=0.0) * np.where(later, 0.5, 1.0)
        outputs = steady.output_tokens * np.where(later, 3, 1)
        return replace(steady, arrival_s=np.cumsum(gaps_s), output_tokens=outputs, name="drift")

    return with_drift


@cache
def _trace(path: Path) -> Workload:
    return read_trace(path)[0]


def _replayed(path: Path, requests: int, seed: int) -> Workload:
    whole = _trace(path)
    return resample(whole.take(slice(0, min(requests, len(whole)))), seed)
