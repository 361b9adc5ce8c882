"""Small cases on KV caches of several groups of layers, laid out as vLLM lays out models that are served."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fluidgate.engine.group_layout import layout_of, most_blocks
from fluidgate.hardware import KvGroup, KvLaw

from .generators import STEP_TIMES, Case, prefix_chains, requests_near, vllm_configs

WINDOWS = st.sampled_from([33, 2, 8, 16, 17, 48, 64, 100])


@st.composite
def gpt_oss(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Windows and full attention in turn: two groups."""
    size = draw(st.sampled_from([16, 4, 32]))
    groups = [KvGroup("sliding", 12, size, draw(WINDOWS)), KvGroup("full", 12, size)]
    return tuple(groups if draw(st.booleans()) else groups[::-1])


@st.composite
def gemma_3(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Five layers with a window for each that keeps every token."""
    size = draw(st.sampled_from([16, 4]))
    window = KvGroup("sliding", 10, size, draw(WINDOWS))
    return (*[window] * draw(st.integers(2, 5)), KvGroup("full", 10, size))


@st.composite
def gemma_4(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Heads that differ, so that blocks of one size in bytes hold different numbers of tokens."""
    size, more = draw(st.sampled_from([16, 4])), draw(st.sampled_from([2, 4]))
    window, full = draw(st.sampled_from([(size, size * more), (size * more, size)]))
    return (*[KvGroup("sliding", 5, window, draw(WINDOWS))] * draw(st.integers(1, 3)), KvGroup("full", 5, full))


@st.composite
def two_windows(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Windows of two sizes, beside full attention or latent attention or neither."""
    size = draw(st.sampled_from([16, 4]))
    first, second = draw(st.lists(WINDOWS, min_size=2, max_size=2, unique=True))
    others = draw(st.sampled_from([(), (KvGroup("full", 4, size),), (KvGroup("latent", 4, size),)]))
    return (KvGroup("sliding", 4, size, first), *others, KvGroup("sliding", 4, size, second))


@st.composite
def mistral(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """A window in every layer: one group."""
    return (KvGroup("sliding", 32, draw(st.sampled_from([16, 4])), draw(WINDOWS)),)


@st.composite
def llama_4(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Three layers with local chunks for each that keeps every token."""
    size = draw(st.sampled_from([16, 4]))
    chunk = KvGroup("chunked", 12, size, size * draw(st.integers(1, 6)))
    return (*[chunk] * draw(st.integers(1, 3)), KvGroup("full", 12, size))


@st.composite
def qwen3_next(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Three layers with a state for each that keeps every token, all with large blocks."""
    size = draw(st.sampled_from([48, 16, 64]))
    return (*[KvGroup("state", 12, size)] * draw(st.integers(1, 3)), KvGroup("full", 12, size))


@st.composite
def nemotron_h(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """Mamba-2: as `qwen3_next`, but a prompt's last chunk keeps a state within it."""
    size = draw(st.sampled_from([16, 48]))
    return (*[KvGroup("state", 12, size, copies=3)] * draw(st.integers(1, 3)), KvGroup("full", 12, size))


@st.composite
def mamba(draw: st.DrawFn) -> tuple[KvGroup, ...]:
    """A state in every layer: one group."""
    return (KvGroup("state", 32, draw(st.sampled_from([16, 32])), copies=draw(st.sampled_from([2, 3]))),)


LAYOUTS = {
    "gpt-oss": gpt_oss(),
    "gemma-3": gemma_3(),
    "gemma-4": gemma_4(),
    "two windows": two_windows(),
    "mistral": mistral(),
    "llama-4": llama_4(),
    "qwen3-next": qwen3_next(),
    "nemotron-h": nemotron_h(),
    "mamba": mamba(),
}


@st.composite
def repeated_prompts(draw: st.DrawFn, size: int, crowded: bool) -> list[tuple[Any, ...]]:
    """Requests as of `requests_near`, of a few prompts that come again, whole or longer: what states are kept for."""
    blocks = st.integers(1, 3 if crowded else 7)
    prompt = st.tuples(blocks, st.sampled_from([0, 1, size // 2, size - 1]), st.integers(0, 5))
    prompts = draw(st.lists(prompt, min_size=1, max_size=3))
    one = st.tuples(st.sampled_from(prompts), st.sampled_from([0, 0, 0, 1, size, 2 * size + 1]))
    gap, output = st.sampled_from([0, 0, 1, 4, 8, 40]), st.integers(20, 60) if crowded else st.integers(1, 40)
    drawn = draw(st.lists(st.tuples(gap, one, output), min_size=5 if crowded else 3, max_size=12))
    requests = []
    for ticks, ((whole, part, fork), more), tokens in drawn:
        path = [int(k >= fork) for k in range(12)]  # prompts are alike up to the later of their forks
        requests.append((ticks, whole * size + part + more, tokens, path, 12))
    return requests


@st.composite
def group_cases(
    draw: st.DrawFn, layout: st.SearchStrategy[tuple[KvGroup, ...]], *, crowded: bool = False, shared: bool = False
) -> Case:
    """Cases on the groups of `layout`; `crowded` and `shared` as in `cases`."""
    groups = draw(layout)
    law = KvLaw(groups)
    unit_tokens = gcd(*(group.block_size for group in groups))
    near = st.lists(requests_near(law.block_size, crowded), min_size=5 if crowded else 1, max_size=12)
    drawn = draw(repeated_prompts(law.block_size, crowded) if shared and draw(st.booleans()) else near)
    lengths = [(prompt, output) for _, prompt, output, *_ in drawn]
    config = draw(vllm_configs(crowded)) | {"async_scheduling": draw(st.booleans())}
    case = Case([], 1, config=config)
    longest = max(prompt + output for prompt, output in lengths)
    caching = case.engine.enable_prefix_caching
    budget, batches = case.engine.token_budget(longest), case.engine.batches_in_flight
    kept = layout_of(law, longest, budget, batches_in_flight=batches, prefix_caching=caching)
    peak = np.array([prompt + output - 1 for prompt, output in lengths])
    few = st.integers(0, 8)
    spare = draw(few if crowded else st.one_of(st.integers(0, 2), few, st.integers(0, 300)))
    prefixes, unit = draw(prefix_chains([r[3:] for r in drawn], lengths, unit_tokens)) if shared else ([], 0)
    arrivals = np.cumsum([gap for gap, *_ in drawn]).tolist()
    return Case(
        [(at, prompt, output) for at, (prompt, output) in zip(arrivals, lengths, strict=True)],
        blocks=int(most_blocks(law, peak, kept).max()) + spare,
        prefixes=prefixes,
        unit=unit,
        step=draw(st.sampled_from(STEP_TIMES)),
        config=config,
        groups=groups,
    )
