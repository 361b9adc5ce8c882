"""A minimal continuous-batching engine on real compute: fluidgate decides every batch, PyTorch runs it.

The run is the simulator's own step loop, interpreted, with one function replaced: where the simulator asks its
`StepTime` how long a batch takes, the model runs the batch and the clock advances by the seconds that were measured.
Arrivals, decisions, blocks, preemptions and records are the simulator's, so whatever differs is the step time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from attention import Chunk, Decodes
from model import Attend, Llama
from numpy.typing import NDArray
from torch import Tensor

from fluidgate.arrays import IntArray
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
from fluidgate.workload import Workload


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


class Engine:
    """A model, its paged KV cache and the tokens of a workload's requests, on one device."""

    def __init__(self, model: Llama, num_gpu_blocks: int, block_size: int = 16) -> None:
        self.model, self.block_size = model, block_size
        weight = model.lm_head.weight
        self.device, shape = weight.device, model.shape
        # Zeros, because the end of a last block is read before it is masked, and NaN times 0 is NaN.
        cache = (shape.layers, 2, num_gpu_blocks, shape.kv_heads, block_size, shape.head_dim)
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
        positions = np.arange(ends[-1]) - (ends - after)[request]
        blocks = batch.blocks[request, positions // self.block_size]
        samples = np.flatnonzero(after == batch.known)

        rows, at, to = (self._put(array) for array in (batch.rows[request], positions, blocks))
        attend = self._attend(batch, to, at % self.block_size)
        logits = self.model(self.tokens[rows, at], at, attend, self._put(ends[samples] - 1))
        self.tokens[self._put(batch.rows[samples]), self._put(after[samples])] = logits.argmax(dim=-1)

    def _attend(self, batch: Batch, to: Tensor, offset: Tensor) -> Attend:
        """Attention that first writes the new KV into the cache, at `offset` of block `to` for each token."""
        decodes, chunks = self._decodes(batch), self._chunks(batch)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.kv[layer]
            keys[to, :, offset], values[to, :, offset] = k, v
            out = torch.empty_like(q)
            if decodes.count:
                out[: decodes.count] = decodes.attend(q[: decodes.count], keys, values)
            for chunk in chunks:
                own = slice(chunk.start, chunk.stop)
                out[own] = chunk.attend(q[own], k[own], v[own], keys, values)
            return out

        return attend

    def _decodes(self, batch: Batch) -> Decodes:
        count = int((batch.new == 1).sum())
        context = batch.before[:count] + 1
        needed = -(-context // self.block_size)
        owner = np.repeat(np.arange(count), needed)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(needed) - needed, needed)
        position = number[:, None] * self.block_size + np.arange(self.block_size)
        hidden = (position >= context[owner][:, None])[:, None, None, :]
        return Decodes(count, self._put(batch.blocks[owner, number]), self._put(owner), self._put(hidden))

    def _chunks(self, batch: Batch) -> list[Chunk]:
        ends = np.cumsum(batch.new)
        chunks = []
        for i in np.flatnonzero(batch.new > 1):
            before, new, stop = int(batch.before[i]), int(batch.new[i]), int(ends[i])
            blocks = mask = None
            if before:
                blocks = self._put(batch.blocks[i, : -(-(before + new) // self.block_size)])
                slots = torch.arange(len(blocks) * self.block_size, device=self.device)
                mask = slots <= slots[before : before + new, None]
            chunks.append(Chunk(stop - new, stop, blocks, mask))
        return chunks

    def _put(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _decodes_first(batch: Batch) -> Batch:
    """The batch in the order in which it is computed: decodes, then prefill chunks."""
    order = np.argsort(batch.new > 1, kind="stable")
    return Batch(*(getattr(batch, field.name)[order] for field in fields(Batch)))


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
    if (hardware.num_gpu_blocks, hardware.block_size) != (engine.kv.shape[2], engine.block_size):
        raise InputError(f"{hardware.name}: num_gpu_blocks and block_size must be the engine's")
    engine.load(workload.prompt_tokens, workload.output_tokens)
    executor = _Executor(engine)
    replaced = {loop.form_batch: executor.form_batch, loop.compute_batch: executor.compute_batch}
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
