"""`MODES`: the ways to form a batch. A new one is a row here, a function in step.py, and a branch in the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["vllm", "sarathi", "prefill-first"]

VLLM, SARATHI, PREFILL_FIRST = range(3)
"""By these numbers the compiled loop knows them."""


@dataclass(frozen=True)
class BatchFormation:
    """A mode's number in the loop, and what follows from it elsewhere.

    Attributes:
        number: for the compiled loop.
        token_budget: of an iteration where none is given; None: as the longest request needs.
        watermark: share of the blocks that admission keeps free where none is given.
        chunks_prompts: prompts are cut to the budget; else an iteration computes whole ones.
        budget_counts_decodes: the token budget limits decodes too, also where they are alone.
        cuts_long_prefills: it knows vLLM's `long_prefill_token_threshold`.
    """

    number: int
    token_budget: int | None
    watermark: float
    chunks_prompts: bool = True
    budget_counts_decodes: bool = False
    cuts_long_prefills: bool = False


MODES: dict[str, BatchFormation] = {
    # V1: running first, chunked prefill, one token budget
    "vllm": BatchFormation(VLLM, 2048, watermark=0.0, budget_counts_decodes=True, cuts_long_prefills=True),
    # decodes first, then chunks up to a fixed budget
    "sarathi": BatchFormation(SARATHI, 512, watermark=0.01),
    # vLLM V0: whole prompts, and no decode beside a prefill
    "prefill-first": BatchFormation(PREFILL_FIRST, None, watermark=0.01, chunks_prompts=False),
}

_VIDUR: dict[str, Any] = {
    "max_num_seqs": 128,
    "watermark": 0.01,
    "enable_prefix_caching": False,
    "decodes_need_spare_block": True,
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # microsoft/vidur 7d47513: SarathiReplicaScheduler and VLLMReplicaScheduler
    "vidur": {
        "sarathi": _VIDUR | {"max_num_batched_tokens": 512},
        "prefill-first": _VIDUR | {"max_num_batched_tokens": 4096, "pad_prompt_batches": True},
    },
    # prefill elsewhere: the decode instance of disaggregated serving
    "decode-server": {mode: {"prompts_arrive_computed": True} for mode in MODES},
}
"""Schedulers of other simulators and kinds of servers: by name and mode, what they set in `EngineConfig`."""
