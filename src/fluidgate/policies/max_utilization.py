"""`max-utilization`: fill the memory, evict when it is full, and gather prompts before they interrupt the decodes.

Source: TensorRT-LLM 1.x. Memory as in `MaxUtilizationScheduler` of
`cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp`, which is the engine's own greedy admission. Waiting as in
`PyExecutor._waiting_requests` of `tensorrt_llm/_torch/pyexecutor/py_executor.py`: while some request decodes, prompts
that fit are held until the iteration's tokens would reach a share of the token budget, or for a number of iterations.
Both are 0 there unless set, which means no waiting; the defaults here are those of InferenceMAX's TensorRT-LLM recipe
for prompts and outputs of 1k.
"""

from __future__ import annotations

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.kernel import kernel
from fluidgate.policies.parts.blocks import blocks_for
from fluidgate.policies.parts.pacing import blocks_for_next_step
from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy


@kernel
def _of_residents(view):
    """What residents take of the next iteration: how many decode, all their tokens, and their further blocks."""
    decodes = 0
    tokens = 0
    blocks = 0
    for i in range(len(view.residents)):
        row = view.residents[i]
        pending = view.prompt_tokens[row] + view.generated_tokens[row] - view.computed_tokens[row]
        decodes += pending == 1 and view.generated_tokens[row] > 0
        tokens += pending
        blocks += blocks_for_next_step(view, row)
    return decodes, tokens, blocks


@kernel
def _of_prompts(view, free_blocks, enough_tokens):
    """Tokens of the waiting prompts that fit, in order, up to the one that makes them enough."""
    tokens = 0
    seats = view.max_num_seqs - len(view.residents)
    row = view.waiting_head[0]
    while row >= 0 and seats > 0 and tokens < enough_tokens:
        prompt = view.prompt_tokens[row] + view.generated_tokens[row]
        free_blocks -= blocks_for(prompt, view.block_size)
        if free_blocks < 0:
            break
        tokens += prompt
        seats -= 1
        row = view.next_waiting[row]
    return tokens


@kernel
def _is_full(view):
    """Whether no prompt fits, whatever residents take."""
    row = view.waiting_head[0]
    seats = view.max_num_seqs - len(view.residents)
    if row < 0 or seats <= 0:
        return True
    return blocks_for(view.prompt_tokens[row] + view.generated_tokens[row], view.block_size) > view.free_blocks


def _admit(params, memory, view, out_quota):
    if _is_full(view):
        return np.inf
    decodes, tokens, blocks = _of_residents(view)
    enough_tokens = max(params[1] * view.token_budget - tokens, 1.0)
    prompts = _of_prompts(view, view.free_blocks - blocks, enough_tokens)
    if decodes == 0 or prompts == 0:
        return np.inf
    if memory[0] >= params[0] or tokens + prompts >= params[1] * view.token_budget:
        memory[0] = 0.0
    else:
        memory[0] += 1.0
        out_quota[0] = 0
    return np.inf


@policy("max-utilization")
class MaxUtilization(Policy):
    """Greedy admission that waits for a batch of prompts.

    Attributes:
        batch_wait_timeout_iters: most iterations for which prompts that fit are held; 0: no waiting.
        batch_wait_max_tokens_ratio: share of the token budget that ends the waiting; 0: no waiting.
    """

    batch_wait_timeout_iters: float = 20.0
    batch_wait_max_tokens_ratio: float = 0.9

    def __post_init__(self) -> None:
        iters, ratio = self.batch_wait_timeout_iters, self.batch_wait_max_tokens_ratio
        self.require(0 <= iters < MANY, f"batch_wait_timeout_iters = {iters} must be at least 0, and finite")
        self.require(0 <= ratio <= 1, f"batch_wait_max_tokens_ratio = {ratio} must be between 0 and 1")

    admit = staticmethod(_admit)

    def new_memory(self) -> FloatArray:
        """Iterations for which prompts have been held."""
        return np.zeros(1)
