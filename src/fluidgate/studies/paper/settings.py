"""Settings of the studies of arXiv 2504.11320, section 6: workloads, machine, schedulers, the grids of the search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, load_profile
from fluidgate.policies import NestedWait, Policy
from fluidgate.workload import Workload, generate

LINEAR = "paper"
"""Profile variant with the paper's iteration time, d0 + d1·KV tokens: prompts cost no compute."""

SEGMENT_MARGIN = 0.05
"""η: the paper's threshold ratios exceed the survival by this, up to `LARGEST_RATIO`."""
LARGEST_RATIO = 0.99

PROMPT_CHUNK = 256
"""Tokens of one prompt per iteration under the paper's WAIT. Several prompts may be in one batch."""
WIDE = 16_384


@dataclass(frozen=True)
class Study:
    """A workload of the paper with its arrival rates and the grid that its caps are searched on.

    Attributes:
        preset: name of the synthetic workload.
        rates: requests per second.
        caps: the paper's B, residents in the system.
        segments: how many segments Nested WAIT's decode is cut into, also searched.
        equal_width: segments of equal width, as for LMSYS; otherwise one per output length.
        variant: of the hardware profile; None: the four-term step time.
        published: largest stable rates that the paper reports, requests per second, by scheduler.
        strict: whether the algorithms to the letter work here.
    """

    preset: str
    rates: tuple[float, ...]
    caps: tuple[int, ...] = tuple(range(20, 201, 10))
    segments: tuple[int, ...] = (1,)
    equal_width: bool = False
    variant: str | None = None
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
UNTUNED = ("wait", "nested-wait", "fluid")
STRICT = ("wait:strict=true", "nested-wait:strict=true")

_TYPES = (
    ("p512-d20", ((VLLM, 19.0), (SARATHI, 22.0), (SEARCHED, 23.0)), (1,)),
    ("p512-d20-d50-mix", ((VLLM, 18.0), (SARATHI, 21.0), (SEARCHED, 22.0)), (2,)),
)
_SHORT_RATES = (12.0, 14.0, 16.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 26.0, 28.0, 30.0, 32.0, 34.0)
_LMSYS_RATES, _LMSYS_CAPS = tuple(float(r) for r in range(10, 151, 10)), tuple(range(20, 201, 20))
_LMSYS_SEGMENTS = (1, 2, 3, 4, 5, 10, 20)

STUDIES: dict[str, Study] = {
    **{
        name: Study(name, _SHORT_RATES, published=published, segments=segments, strict=True)
        for name, published, segments in _TYPES
    },
    "p512-d1000": Study("p512-d1000", tuple(0.5 * k for k in range(1, 11)), caps=tuple(range(20, 201, 20))),
    "lmsys": Study("lmsys", _LMSYS_RATES, _LMSYS_CAPS, _LMSYS_SEGMENTS, equal_width=True),
    "lmsys, linear time": Study("lmsys", _LMSYS_RATES, _LMSYS_CAPS, _LMSYS_SEGMENTS, equal_width=True, variant=LINEAR),
}


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
    CAP_ALONE: Scheduler(_PAPERS_ENGINE, "greedy"),
    **{policy: Scheduler(_engine(), policy) for policy in (*UNTUNED, *STRICT)},
}
"""As published, next to stock vLLM V1 and this package's policies on stock vLLM V1."""

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
        raise InputError(f"no study {name!r}; known: {', '.join(STUDIES)}")
    return STUDIES[name]


@cache
def machine(variant: str | None) -> Hardware:
    """Llama-2-7B on an A100-80GB with about 137,000 tokens of KV; requests of any length are taken, as in the paper."""
    return load_profile("llama-2-7b", "a100-80gb", variant)


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
