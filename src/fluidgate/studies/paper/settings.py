"""Settings of the studies of arXiv 2504.11320, section 6: workloads, machine, schedulers, the grids of the search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.errors import unknown
from fluidgate.hardware import Hardware, load_profile
from fluidgate.policies import NestedWait, Policy
from fluidgate.workload import Workload, generate


@dataclass(frozen=True)
class Machine:
    """A model on an A100-80GB: whose steps, how much memory, and whose schedulers.

    Attributes:
        model: of a built-in profile.
        variant: of that profile; None: the four-term step time.
        line: take the line that was fitted to the variant's grid, not the grid.
        blocks: KV blocks of 16 tokens; None: the profile's, about 137,000 tokens.
        vidur: vLLM and Sarathi schedule as in Vidur.
        title: for people.
    """

    model: str
    variant: str | None
    title: str
    line: bool = False
    blocks: int | None = None
    vidur: bool = False


FOUR_TERM, VIDUR, FITTED, LINEAR, LARGE = "four-term", "Vidur steps", "fitted steps", "linear time", "479k"
PAPERS_BLOCKS = 29_952
"""KV blocks of the authors' runs, about 479,000 tokens: arXiv 2504.11320, appendix on the simulator."""

MACHINES: dict[str, Machine] = {
    FOUR_TERM: Machine("llama-2-7b", None, "Llama-2-7B, C = 137k, four-term step time"),
    VIDUR: Machine("llama-2-7b", "vidur", "Llama-2-7B, C = 137k, the steps that Vidur simulates", vidur=True),
    FITTED: Machine(
        "llama-2-7b", "vidur", "Llama-2-7B, C = 137k, the line fitted to Vidur's steps", line=True, vidur=True
    ),
    LINEAR: Machine("llama-2-7b", "paper", "Llama-2-7B, C = 137k, the paper's d0 + d1·KV: prompts cost no compute"),
    LARGE: Machine("llama-3.1-8b", None, "Llama-3-8B, C = 479k, four-term step time", blocks=PAPERS_BLOCKS),
}
"""What the studies run on. Vidur's schedulers go with Vidur's steps."""

SEGMENT_MARGIN = 0.05
"""η: the paper's threshold ratios exceed the survival by this, up to `LARGEST_RATIO`."""
LARGEST_RATIO = 0.99

PROMPT_CHUNK = 256
"""Tokens of one prompt per iteration under the paper's WAIT. Several prompts may be in one batch."""
WIDE = 16_384
"""No limit on the tokens of an iteration."""
VIDUR_WIDE = 8_192
"""The same where Vidur's steps are: as far as they are known."""


@dataclass(frozen=True)
class Study:
    """A workload of the paper with its arrival rates and the grid that its caps are searched on.

    Attributes:
        preset: name of the synthetic workload.
        rates: requests per second.
        caps: the paper's B, residents in the system.
        segments: how many segments Nested WAIT's decode is cut into, also searched.
        equal_width: segments of equal width, as for LMSYS; otherwise one per output length.
        single_caps: further B, tried with one segment.
        machine: a key of `MACHINES`.
        papers_cap: the B that the authors ran with, where it is known.
        published: largest stable rates that the paper reports, requests per second, by scheduler.
        strict: whether the algorithms to the letter work here.
    """

    preset: str
    rates: tuple[float, ...]
    caps: tuple[int, ...] = tuple(range(20, 201, 10))
    segments: tuple[int, ...] = (1,)
    equal_width: bool = False
    single_caps: tuple[int, ...] = ()
    machine: str = FOUR_TERM
    papers_cap: int | None = None
    published: tuple[tuple[str, float], ...] = ()
    strict: bool = False


@dataclass(frozen=True)
class Scheduler:
    """An engine and a policy; without a policy it is (Nested) WAIT under a cap that is searched.

    Attributes:
        engine: batch formation and limits.
        policy: a spec as `make_policy` takes it, set from the plan.
    """

    engine: EngineConfig
    policy: str | None


VLLM, SARATHI, V1, SEARCHED = "vLLM", "Sarathi", "vLLM V1", "WAIT, B searched"
CAP_ALONE = "B alone, searched"
PUBLISHED_CAP = "WAIT, B as published"
UNTUNED = ("wait", "nested-wait", "fluid")
STRICT = ("wait:strict=true", "nested-wait:strict=true")

_TYPES = (
    ("p512-d20", ((VLLM, 19.0), (SARATHI, 22.0), (PUBLISHED_CAP, 23.0), (SEARCHED, 23.0)), (1,), 21),
    ("p512-d20-d50-mix", ((VLLM, 18.0), (SARATHI, 21.0), (PUBLISHED_CAP, 22.0), (SEARCHED, 22.0)), (2,), 22),
)
_SHORT_RATES = (12.0, 14.0, 16.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 26.0, 28.0, 30.0, 32.0, 34.0)
_LMSYS_RATES, _LMSYS_CAPS = tuple(float(r) for r in range(10, 151, 10)), tuple(range(20, 201, 20))
_LMSYS_SEGMENTS = (1, 2, 3, 4, 5, 10, 20)
_LMSYS = Study(
    "lmsys", _LMSYS_RATES, _LMSYS_CAPS, _LMSYS_SEGMENTS, equal_width=True, single_caps=tuple(range(220, 301, 20))
)

_ON_FOUR_TERM: dict[str, Study] = {
    **{
        name: Study(name, _SHORT_RATES, published=published, segments=segments, papers_cap=cap, strict=True)
        for name, published, segments, cap in _TYPES
    },
    "p512-d1000": Study("p512-d1000", tuple(0.5 * k for k in range(1, 11)), caps=tuple(range(20, 201, 20))),
    "lmsys": _LMSYS,
}


def on_machine(workload: str, machine: str) -> str:
    """The name of the study of a workload on a machine."""
    return workload if machine == FOUR_TERM else f"{workload}, {machine}"


STUDIES: dict[str, Study] = _ON_FOUR_TERM | {
    on_machine(name, machine): replace(_ON_FOUR_TERM[name], machine=machine, strict=False)
    for name, machines in (
        ("p512-d20", (VIDUR, FITTED, LARGE)),
        ("p512-d20-d50-mix", (VIDUR, FITTED, LARGE)),
        ("p512-d1000", (VIDUR, FITTED, LARGE)),
        ("lmsys", (LINEAR, VIDUR, LARGE)),
    )
    for machine in machines
}


NEAR_BOUNDARY_S: dict[str, dict[str, dict[float, float]]] = {
    "p512-d20": {
        VLLM: {22.0: 18.23, 23.0: 26.78},
        SARATHI: {22.0: 1.85, 23.0: 5.08},
        PUBLISHED_CAP: {22.0: 1.03, 23.0: 1.29},
        SEARCHED: {22.0: 1.03, 23.0: 1.29},
    },
    "p512-d20-d50-mix": {
        VLLM: {22.0: 56.70, 23.0: 80.25},
        SARATHI: {22.0: 4.06, 23.0: 8.41},
        PUBLISHED_CAP: {22.0: 2.36, 23.0: 5.66},
        SEARCHED: {22.0: 2.36, 23.0: 5.66},
    },
}
"""Mean E2E by workload, scheduler and rate, seconds: arXiv 2504.11320, appendix on repeated runs."""
LONG_LATENCY_S: dict[float, dict[str, float]] = {
    4.0: {SARATHI: 30.2, SEARCHED: 26.4},
    4.5: {VLLM: 53.8, SARATHI: 41.7, SEARCHED: 32.3},
}
"""The same for p512-d1000, by rate: its figure 9 and table 1."""


def _engine(**settings: Any) -> EngineConfig:
    """The paper's model of eviction: a victim starts again from nothing; no prefix cache."""
    return replace(EngineConfig(enable_prefix_caching=False, preemption="restart"), **settings)


_PAPERS_ENGINE = _engine(max_num_seqs=1024, max_num_batched_tokens=WIDE, long_prefill_token_threshold=PROMPT_CHUNK)

SCHEDULERS: dict[str, Scheduler] = {
    # Vidur's defaults: prompts up to 4,096 tokens in a batch, 128 seats.
    VLLM: Scheduler(_engine(mode="prefill-first", max_num_batched_tokens=4096, max_num_seqs=128), "greedy"),
    SARATHI: Scheduler(_engine(mode="sarathi", max_num_batched_tokens=512, max_num_seqs=512), "greedy"),
    V1: Scheduler(_engine(), "greedy"),
    SEARCHED: Scheduler(_PAPERS_ENGINE, None),
    PUBLISHED_CAP: Scheduler(_PAPERS_ENGINE, None),
    CAP_ALONE: Scheduler(_PAPERS_ENGINE, "greedy"),
    **{policy: Scheduler(_engine(), policy) for policy in (*UNTUNED, *STRICT)},
}
"""As published, next to stock vLLM V1 and this package's policies on stock vLLM V1."""

_IN_VIDUR: dict[str, Scheduler] = {
    VLLM: Scheduler(EngineConfig.preset("vidur", mode="prefill-first"), "greedy"),
    SARATHI: Scheduler(EngineConfig.preset("vidur", mode="sarathi", max_num_seqs=512), "greedy"),
    **{
        name: Scheduler(
            replace(_PAPERS_ENGINE, max_num_batched_tokens=VIDUR_WIDE, preemption="recompute"), SCHEDULERS[name].policy
        )
        for name in (SEARCHED, PUBLISHED_CAP, CAP_ALONE)
    },
    **{
        name: Scheduler(replace(SCHEDULERS[name].engine, preemption="recompute"), SCHEDULERS[name].policy)
        for name in (V1, *UNTUNED, *STRICT)
    },
}
"""As Vidur schedules them, where a victim keeps the tokens it has sent; the paper gives Sarathi 512 seats."""

CHUNKS = (512, 2048)
"""Tokens per iteration, for all schedulers alike."""

EQUAL: dict[str, Scheduler] = {
    SARATHI: Scheduler(_engine(mode="sarathi", max_num_seqs=1024), "greedy"),
    **{
        name: Scheduler(_engine(max_num_seqs=1024), policy)
        for name, policy in ((V1, "greedy"), (SEARCHED, None), (CAP_ALONE, "greedy"), *((p, p) for p in UNTUNED))
    },
}
"""The same where all compute as many tokens per iteration, with seats to spare; the chunk is filled in."""


def study(name: str) -> Study:
    """The study of a name.

    Raises:
        InputError: an unknown one.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


def schedulers(study: Study) -> dict[str, Scheduler]:
    """The schedulers of a study: as its machine has them, and with the authors' B where it is known.

    The algorithms to the letter have no seats, and Vidur's steps are known up to 4,096 requests at once.
    """
    every = SCHEDULERS | (_IN_VIDUR if MACHINES[study.machine].vidur else {})
    without = (*(STRICT if study.machine == VIDUR else ()), *(() if study.papers_cap else (PUBLISHED_CAP,)))
    return {name: scheduler for name, scheduler in every.items() if name not in without}


@cache
def machine(name: str) -> Hardware:
    """The hardware of a machine; requests of any length are taken, as in the paper."""
    of = MACHINES[name]
    hardware = load_profile(of.model, "a100-80gb", of.variant)
    if of.line:
        hardware = replace(hardware, grid=None)
    return hardware if of.blocks is None else hardware.with_cache(of.blocks)


def draw(study: Study, requests: int, seed: int, rate: float | None) -> Workload:
    """Requests of a study at a rate; None: all at once."""
    drawn = generate(study.preset, n=requests, rate=1.0 if rate is None else rate, seed=seed)
    return drawn if rate is not None else replace(drawn, arrival_s=np.zeros(requests))


def capped_policy(study: Study, law: Workload, cap: int, segments: int) -> Policy:
    """The paper's thresholds under a cap B: n_k/n_{k-1} from the survival p_k, and Σ n_k·(stages of segment k) = B.

    With one segment Nested WAIT is WAIT. A prompt in several chunks takes as many stages of the first segment.
    """
    outputs, prompts = law.output_tokens, law.prompt_tokens
    if study.equal_width:
        edges, margin = np.linspace(0, outputs.max(), segments + 1).round()[1:], SEGMENT_MARGIN
    else:
        edges, margin = np.unique(outputs).astype(np.float64), 0.0
    cuts = np.concatenate(([0.0], edges[:-1]))
    share = np.array([(outputs > cut).mean() for cut in cuts])
    ratio = np.minimum(share[1:] / share[:-1] + margin, LARGEST_RATIO)
    profile = np.concatenate(([1.0], np.cumprod(ratio)))
    stages = edges - cuts
    stages[0] += np.ceil(prompts / PROMPT_CHUNK).mean() - 1.0
    entry = cap / float(profile @ stages)
    settings: dict[str, Any] = {
        "hold_s": 0.0,
        "strict": False,
        "thresholds": tuple((entry * profile).tolist()),
        "cuts": tuple(cuts[1:].tolist()),
    }
    return NestedWait(**settings)
