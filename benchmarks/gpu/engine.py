"""A minimal continuous-batching engine on real compute: fluidgate decides every batch, PyTorch runs it.

The run is the simulator's own step loop, interpreted, with one function replaced: where the simulator launches a batch
for the time that its `StepTime` says, the model runs it and the clock advances by the seconds that were measured.
Arrivals, decisions, blocks, preemptions and records are the simulator's, so whatever differs is the step time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from attention import Attention, Batch, torch_attention
from model import Attend, Llama
from numpy.typing import NDArray
from torch import Tensor

from fluidgate.arrays import IntArray
from fluidgate.engine import EngineConfig, RunRecords, batch, flight, loop
from fluidgate.engine.compiled import load_program
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import State
from fluidgate.engine.run import run_program
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.kernel import interpreted
from fluidgate.policies import Policy
from fluidgate.workload import Workload


class Engine:
    """A model, its paged KV cache and the tokens of a workload's requests, on one device."""

    def __init__(
        self, model: Llama, num_gpu_blocks: int, block_size: int = 16, attention: Attention = torch_attention
    ) -> None:
        self.model, self.block_size, self.attention = model, block_size, attention
        self.sampled_tokens = 0
        weight = model.lm_head.weight
        self.device, shape = weight.device, model.shape
        # Zeros, because the end of a last block is read before it is masked, and NaN times 0 is NaN.
        cache = (shape.layers, 2, num_gpu_blocks, shape.kv_heads, block_size, shape.head_dim)
        self.kv = torch.zeros(cache, dtype=weight.dtype, device=self.device)
        self.tokens = torch.zeros((0, 0), dtype=torch.int64, device=self.device)

    def with_blocks(self, num_gpu_blocks: int | None) -> Engine:
        """The same engine with the first blocks of its KV cache alone; None: with all of them."""
        fewer = copy(self)
        fewer.kv = self.kv[:, :, :num_gpu_blocks]
        return fewer

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
        self.sampled_tokens += len(samples)

    def _attend(self, batch: Batch, to: Tensor, offset: Tensor) -> Attend:
        """Attention that first writes the new KV into the cache, at `offset` of block `to` for each token."""
        paged = self.attention(batch, self.block_size, self._put)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.kv[layer]
            keys[to, :, offset], values[to, :, offset] = k, v
            return paged(q, k, v, keys, values)

        return attend

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
        sampled_tokens: tokens that the model chose.
    """

    records: RunRecords
    predicted_step_s: NDArray[np.float64]
    sampled_tokens: int


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
    executor, sampled_before = _Executor(engine), engine.sampled_tokens
    replaced = {batch.form_batch: executor.form_batch, flight.launch: executor.launch}
    program = replace(load_program(policy, compile=False), run_loop=interpreted(loop.run_loop, replaced))
    records = run_program(
        program,
        workload,
        hardware,
        policy,
        replace(config, async_scheduling=False),
        record="steps",
        progress=progress,
        iterations_per_call=100,
        walked=True,
    )
    return Served(records, np.array(executor.predicted_s), engine.sampled_tokens - sampled_before)


class _Executor:
    """The engine in the place of the simulator's step time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.plain_form, self.plain_launch = interpreted(batch.form_batch), interpreted(flight.launch)
        self.table = np.zeros((0, 0), np.int32)
        self.predicted_s: list[float] = []

    def form_batch(self, state: State, cache: Cache) -> None:
        """`batch.form_batch`; keeps hold of the block table, which `launch` is not given."""
        self.table = cache.table
        self.plain_form(state, cache)

    def launch(self, state: State) -> Any:
        """`flight.launch`, with the seconds that the model took."""
        run = state.run[0]
        first = run.launched % 2 * len(state.free_slots)
        entries = state.batch[first : first + run.scheduled]
        rows = np.array([entry.row for entry in entries])
        batch = Batch(
            rows=rows,
            before=state.computed[rows],
            new=np.array([entry.tokens for entry in entries]),
            known=state.prompt_tokens[rows] + state.generated[rows],
            blocks=self.table[[state.rows[row].slot for row in rows]].astype(np.int64),
        )
        launched = self.plain_launch(state)
        self.predicted_s.append(launched.seconds)
        launched.seconds = self.engine.run(batch)
        launched.end_s = run.busy_until_s = launched.start_s + launched.seconds
        return launched
