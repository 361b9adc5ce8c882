"""A minimal continuous-batching engine on real compute: fluidgate decides every batch, PyTorch runs it.

The run is the simulator's own step loop, interpreted, with one function replaced: where the simulator asks its
`StepTime` how long a batch takes, the model runs the batch and the clock advances by the seconds that were measured.
Arrivals, decisions, blocks, preemptions and records are the simulator's, so whatever differs is the step time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from model import Llama
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fluidgate.engine import EngineConfig, RunRecords, loop
from fluidgate.engine import state as layout
from fluidgate.engine.compiled import load_program
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.run import run_program
from fluidgate.engine.state import State
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.workload import IntArray, Workload

SHORT_TOKENS = 128
"""Decodes with contexts up to this long share one attention call, whatever the padding."""
MOST_PADDING = 0.25
"""Of longer ones, a call takes those whose contexts fall short of its longest by at most this share."""


@dataclass(frozen=True)
class Batch:
    """Requests of one forward pass; every array has one value (`blocks`: one row) per request.

    Attributes:
        rows: its row in the token buffer.
        before: tokens whose KV is in the cache.
        new: tokens to compute, the ones that follow.
        known: tokens it has, prompt and generated; once all are computed the next one is sampled.
        blocks: its KV blocks in order, shape (n, at least as many as needed); the rest is never read.
    """

    rows: IntArray
    before: IntArray
    new: IntArray
    known: IntArray
    blocks: IntArray


@dataclass(frozen=True)
class _Attention:
    """One attention call: tokens [start, stop) of the flattened batch over `blocks`, shape (requests, blocks each)."""

    start: int
    stop: int
    blocks: Tensor | None  # None: a prompt from its beginning, whose KV is the call's own
    mask: Tensor | None


class Engine:
    """A model, its paged KV cache and the tokens of a workload's requests, on one device."""

    def __init__(self, model: Llama, num_gpu_blocks: int, block_size: int = 16) -> None:
        self.model, self.block_size = model, block_size
        weight = model.lm_head.weight
        self.device, shape = weight.device, model.shape
        # Zeros, because padding reads block 0, which is never handed out, before a mask drops what it read.
        cache = (shape.layers, 2, num_gpu_blocks, block_size, shape.kv_heads, shape.head_dim)
        self.kv = torch.zeros(cache, dtype=weight.dtype, device=self.device)
        self.tokens = torch.zeros((0, 0), dtype=torch.int64, device=self.device)

    def load(self, prompt_tokens: IntArray, output_tokens: IntArray, seed: int = 0) -> None:
        """Make up prompts of these lengths, with room for the output."""
        shape = (len(prompt_tokens), int((prompt_tokens + output_tokens).max()))
        prompts = np.random.default_rng(seed).integers(0, self.model.shape.vocab_size, shape)
        self.tokens = torch.from_numpy(prompts).to(self.device)

    @torch.inference_mode()
    def run(self, batch: Batch) -> float:
        """Run the batch, append the tokens that it samples, and return the seconds that all of it took."""
        self._wait()
        start = time.perf_counter()
        self._forward(batch)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _forward(self, batch: Batch) -> None:
        batch = _decodes_first(batch)
        new, after = batch.new, batch.before + batch.new
        request = np.repeat(np.arange(len(new)), new)
        ends = np.cumsum(new)
        positions = np.arange(ends[-1]) - (ends - new - batch.before)[request]
        slots = batch.blocks[request, positions // self.block_size] * self.block_size + positions % self.block_size
        samples = np.flatnonzero(after == batch.known)

        rows, at, slot = (self._put(array) for array in (batch.rows[request], positions, slots))
        calls = list(self._attention_calls(batch, ends - new, after))
        logits = self.model(self.tokens[rows, at], at, self._attend(calls, slot), self._put(ends[samples] - 1))
        self.tokens[self._put(batch.rows[samples]), self._put(after[samples])] = logits.argmax(dim=-1)

    def _attention_calls(self, batch: Batch, starts: IntArray, after: IntArray) -> Iterator[_Attention]:
        """Decodes of similar contexts together, padded; every prefill chunk alone."""
        decodes = int((batch.new == 1).sum())
        first = 0
        while first < decodes:
            longest = after[first]
            enough = 0 if longest <= SHORT_TOKENS else (1 - MOST_PADDING) * longest
            last = first + int((after[first:decodes] >= enough).sum())
            blocks, keys = self._padded_blocks(batch.blocks[first:last], after[first:last])
            mask = keys[None, :] < after[first:last, None]
            yield _Attention(first, last, self._put(blocks), self._put(mask[:, None, None, :]))
            first = last
        for i in range(decodes, len(after)):
            start, new, before = int(starts[i]), int(batch.new[i]), int(batch.before[i])
            if before == 0:
                yield _Attention(start, start + new, None, None)
                continue
            blocks, keys = self._padded_blocks(batch.blocks[i : i + 1], after[i : i + 1])
            reach = torch.arange(before, before + new, device=self.device)[:, None]
            yield _Attention(start, start + new, self._put(blocks), self._put(keys)[None, :] <= reach)

    def _padded_blocks(self, blocks: IntArray, tokens: IntArray) -> tuple[IntArray, IntArray]:
        """The blocks that hold the first `tokens` of each request, padded with block 0, and the keys' positions."""
        needed = -(-tokens // self.block_size)
        column = np.arange(needed.max())
        padded = np.where(column < needed[:, None], blocks[:, : len(column)], 0)
        return padded, np.arange(len(column) * self.block_size)

    def _attend(self, calls: list[_Attention], slot: Tensor) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
        shape = self.model.shape
        grouped = shape.heads != shape.kv_heads

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache, out = self.kv[layer], torch.empty_like(q)
            for part, fresh in zip(cache, (k, v), strict=True):
                part.view(-1, *fresh.shape[1:]).index_copy_(0, slot, fresh)
            for call in calls:
                span = slice(call.start, call.stop)
                requests = 1 if call.blocks is None else len(call.blocks)
                own = (k[span], v[span]) if call.blocks is None else (part[call.blocks] for part in cache)
                queries, keys, values = (
                    x.reshape(requests, -1, *x.shape[-2:]).transpose(1, 2) for x in (q[span], *own)
                )
                mixed = scaled_dot_product_attention(
                    queries, keys, values, call.mask, is_causal=call.mask is None, enable_gqa=grouped
                )
                out[span] = mixed.transpose(1, 2).reshape(-1, *q.shape[1:])
            return out

        return attend

    def _put(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _decodes_first(batch: Batch) -> Batch:
    """The batch in the order in which it is computed: decodes from the longest context down, then prefill chunks."""
    order = np.lexsort((-batch.before, batch.new > 1))
    return Batch(*(getattr(batch, name)[order] for name in ("rows", "before", "new", "known", "blocks")))


@dataclass(frozen=True, eq=False)
class Served:
    """A run on real compute.

    Attributes:
        records: what `simulate` would return, in measured time, with one row per step.
        predicted_step_s: what the hardware's step time says of each step's batch, shape (steps,), seconds.
    """

    records: RunRecords
    predicted_step_s: NDArray[np.float64]


def serve(
    engine: Engine,
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    config: EngineConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Served:
    """Run `workload` under `policy` on the engine; arguments as in `simulate`.

    Raises:
        InputError: a workload that names shared prefixes, or a KV cache that is not the engine's.
    """
    if len(workload.prefix_ids):
        raise InputError(f"{workload.name}: prompts are made up here, so none share a prefix; drop its prefix ids")
    if (hardware.num_gpu_blocks, hardware.block_size) != tuple(engine.kv.shape[2:4]):
        raise InputError(f"{hardware.name}: num_gpu_blocks and block_size must be the engine's")
    engine.load(workload.prompt_tokens, workload.output_tokens)
    executor = _Executor(engine)
    replaced = {"form_batch": executor.form_batch, "compute_batch": executor.compute_batch}
    program = replace(load_program(policy, compile=False), run_loop=interpreted(loop.run_loop, replaced))
    records = run_program(
        program, workload, hardware, policy, config, record="steps", progress=progress, iterations_per_call=100
    )
    return Served(records, np.array(executor.predicted_s))


class _Executor:
    """The engine in the place of the simulator's step time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.plain_form, self.plain_compute = interpreted(loop.form_batch), interpreted(loop.compute_batch)
        self.table = np.zeros((0, 0), np.int32)
        self.predicted_s: list[float] = []

    def form_batch(self, state: State, cache: Cache) -> None:
        """`loop.form_batch`; keeps hold of the block table, which `compute_batch` is not given."""
        self.table = cache.table
        self.plain_form(state, cache)

    def compute_batch(self, state: State) -> tuple[float, int]:
        """`loop.compute_batch`, with the seconds that the model took."""
        scheduled = int(state.counter[layout.SCHEDULED])
        if scheduled == 0:  # the only resident evicted itself
            self.predicted_s.append(0.0)
            return 0.0, 0
        rows = state.batch_rows[:scheduled].copy()
        batch = Batch(
            rows=rows,
            before=state.computed[rows],
            new=state.batch_tokens[:scheduled].copy(),
            known=state.prompt_tokens[rows] + state.generated[rows],
            blocks=self.table[state.slot[rows]].astype(np.int64),
        )
        predicted_s, tokens = self.plain_compute(state)
        self.predicted_s.append(predicted_s)
        return self.engine.run(batch), tokens
