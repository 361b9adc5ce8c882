"""Small closed loops and conversations for the parity tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fluidgate.workload import Workload

from .generators import TICK_S, Case, cases

DELAYS = st.sampled_from([0, 0, 1, 8, 40])


@st.composite
def closed_loops(draw: st.DrawFn) -> tuple[Case, Workload]:
    """A case and its requests in a closed loop, with or without turns; their prompts may share prefixes."""
    case = draw(cases(crowded=draw(st.sampled_from([True, True, False])), shared=draw(st.booleans())))
    n = len(case.requests)
    after = [draw(st.integers(-1, i - 1)) if draw(st.booleans()) else -1 for i in range(n)]
    delay_s = [draw(DELAYS) * TICK_S if a >= 0 else 0.0 for a in after]
    concurrency = draw(st.sampled_from([5, 8, None, 1, 3]))
    return case, replace(case.workload, concurrency=concurrency, after=np.array(after), delay_s=np.array(delay_s))


@st.composite
def conversations(draw: st.DrawFn, configs: st.SearchStrategy[dict[str, Any]] | None = None) -> tuple[Case, Workload]:
    """A case for hardware and limits, and sessions whose prompts are all that was said before and some new tokens."""
    case = draw(cases(crowded=draw(st.booleans()), configs=configs))
    unit = case.block_size * draw(st.sampled_from([1, 2, 4]))
    turns: list[tuple[float, int, int, int, float, list[int]]] = []  # arrival, prompt, output, after, delay, ids
    names = 0
    for _ in range(draw(st.integers(2, 5))):
        at_s, said, after, delay_s = draw(st.sampled_from([0, 0, 4, 60])) * TICK_S, 0, -1, 0.0
        ids: list[int] = []
        for _ in range(draw(st.integers(1, 4))):
            prompt, output = said + draw(st.integers(1, 40)), draw(st.integers(1, 40))
            said = prompt + output
            while len(ids) * unit < said:
                ids.append(names)
                names += 1
            turns.append((at_s, prompt, output, after, delay_s, list(ids)))
            after, delay_s = len(turns) - 1, draw(DELAYS) * TICK_S
            at_s += delay_s
    arrival_s, prompt, output, after, delay_s, chains = zip(*turns, strict=True)
    order = np.argsort(arrival_s, kind="stable")
    row = np.argsort(order)
    workload = Workload(
        np.array(arrival_s)[order],
        np.array(prompt)[order],
        np.array(output)[order],
        prefix_ids=np.concatenate([chains[i] for i in order]),
        prefix_offsets=np.cumsum([0, *(len(chains[i]) for i in order)]),
        prefix_block_tokens=unit,
        ids_cover_replies=True,
        after=np.array([row[after[i]] if after[i] >= 0 else -1 for i in order]),
        delay_s=np.array(delay_s)[order],
        concurrency=draw(st.sampled_from([None, None, 1, 2])),
        name="conversations",
    )
    largest = -(-int((workload.prompt_tokens + workload.output_tokens - 1).max()) // case.block_size)
    return replace(
        case, blocks=largest + draw(st.one_of(st.integers(0, 2), st.integers(0, 4), st.integers(0, 60)))
    ), workload
