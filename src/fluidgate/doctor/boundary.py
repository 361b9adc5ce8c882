"""What the lengths that were served ask of the KV memory, and the stability boundary on given hardware."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fluidgate.doctor.facts import Facts
from fluidgate.doctor.lengths import LengthLaw
from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, Stability, affine_step_time, stability
from fluidgate.fluid.stability import free_share_for_growth
from fluidgate.hardware import Hardware, KvLaw


@dataclass(frozen=True)
class Memory:
    """What needs no step time; all per engine.

    Attributes:
        law: lengths of the requests that finished.
        mean_kv_tokens: KV that a resident holds on average over its life, E[a]/E[o].
        full_at_residents: residents that fill the KV memory on average.
        watermark: the share of blocks to keep free at admission, `free_share_for_growth`.
    """

    law: LengthLaw
    mean_kv_tokens: float
    full_at_residents: float
    watermark: float


@dataclass(frozen=True)
class Boundary:
    """The stability boundary over all engines, with what the histograms leave open.

    Attributes:
        stable: the boundary of one engine; its `load` means nothing where `load` is None.
        rate: req/s that can be sustained.
        rates: the least and the largest that the length histograms allow.
        load: arrivals over the boundary; None if the arrival rate is unknown.
        loads: the same at the largest and the least boundary.
        memory_doubled_gain: relative gain of the boundary from twice the KV memory; None where a grid of step times
            does not reach that far.
    """

    hardware: Hardware
    stable: Stability
    rate: float
    rates: tuple[float, float]
    load: float | None
    loads: tuple[float, float] | None
    memory_doubled_gain: float | None

    def step_s(self, facts: Facts, tokens: float, chunk: int = 0) -> float:
        """Seconds of a step of the requests that run, beside a prefill of `chunk` tokens.

        Args:
            tokens: what a step computes without that prefill; where step times are a grid, it is the decodes alone.
        """
        kv_tokens, chunks = facts.kv_use * (facts.kv_tokens or 0.0), min(chunk, 1)
        grid = self.hardware.grid
        if grid is None:
            sequences = max(facts.running, 1.0) + chunks
            return float(self.hardware.step_time.duration_s(tokens + chunk, kv_tokens, 0, sequences))
        decodes = min(max(facts.running, 1.0), grid.max_decodes)
        kv_tokens = min(max(kv_tokens, decodes), decodes * grid.max_context)
        return float(grid.duration_s(decodes, kv_tokens, chunk, chunk * (chunk + 1) / 2, chunks)[0])


def memory_of(facts: Facts) -> Memory | None:
    """The memory side, or None where lengths or the KV capacity are unknown."""
    prompt, output = facts.histogram("request_prompt_tokens"), facts.histogram("request_generation_tokens")
    if prompt is None or output is None or facts.kv_tokens is None or facts.block_size is None:
        return None
    law = LengthLaw(prompt, output, facts.kv_tokens)
    mix = law.mix("even", 1.0)
    held = mix.mean(mix.memory_token_iterations(KvLaw.full(facts.block_size))) / mix.mean(mix.iterations)
    share = free_share_for_growth(mix, Limits(facts.kv_tokens, facts.block_size))
    return Memory(law, held, facts.kv_tokens / held, share)


def boundary_of(facts: Facts, memory: Memory, hardware: Hardware) -> Boundary:
    """The boundary of the served lengths on `hardware`, whose KV capacity gives way to the one that the facts have.

    A size in tokens counts every token of a request once, however many groups of layers keep it, and so do requests.
    """
    machine, limits = hardware, Limits.of(hardware, facts.max_num_batched_tokens, facts.max_num_seqs)
    if facts.kv_tokens is not None and facts.block_size is not None:
        blocks = max(2, 1 + int(facts.kv_tokens // facts.block_size))
        machine = replace(hardware, num_gpu_blocks=blocks, block_size=facts.block_size, kv_law=None)
        limits = replace(limits, kv_tokens=facts.kv_tokens, block_size=facts.block_size, kv_law=None)
    twice = replace(limits, kv_tokens=2 * limits.kv_tokens)
    per_engine = (facts.rate or 1.0) / facts.engines
    mixes = {spread: memory.law.mix(spread, per_engine) for spread in ("most", "even", "least")}
    least, even, most = (_stability(mix, machine, limits) for mix in mixes.values())
    more = _doubled(mixes["even"], machine, twice)
    return Boundary(
        hardware=machine,
        stable=even,
        rate=facts.engines * even.boundary_rate,
        rates=(facts.engines * least.boundary_rate, facts.engines * most.boundary_rate),
        load=even.load if facts.rate else None,
        loads=(most.load, least.load) if facts.rate else None,
        memory_doubled_gain=None if more is None else more.boundary_rate / even.boundary_rate - 1.0,
    )


def _stability(mix: RequestMix, machine: Hardware, limits: Limits) -> Stability:
    return stability(mix, affine_step_time(mix, machine, limits), limits)


def _doubled(mix: RequestMix, machine: Hardware, twice: Limits) -> Stability | None:
    try:
        return _stability(mix, machine, twice)
    except InputError:  # beyond the grid: what is lost is one advice
        return None
