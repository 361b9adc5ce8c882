"""The largest rate any policy can sustain, what limits it, and the load at which memory begins to matter."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isclose, sqrt

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.errors import InputError
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.onset import Fluctuation
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw

COMPUTE_BOUND_ETA = 0.01
"""Below this elasticity 1% more of the limit gains under 0.01% of rate: the work itself binds."""

WATERMARK_RANGE = (0.01, 0.3)

ROUNDING = 1e-12
COHERENT = 0.8
"""From this coherence on, admissions are worth pacing at x* (model.md §8)."""


@dataclass(frozen=True)
class TimeShares:
    """Where the time goes at the boundary; the shares add up to 1.

    Each is also the elasticity of the boundary rate to one over its coefficient (model.md §2).
    """

    fixed: float
    tokens: float
    kv: float
    attention: float
    sequences: float


@dataclass(frozen=True)
class Stability:
    """The stability boundary of a mix on a machine (model.md §2).

    Attributes:
        rate: arrivals, requests per second.
        boundary_rate: λ_max = x*/(c0 + w x*), the largest rate any policy can sustain, requests per second.
        admissions_per_iteration: x*, the least of the limits below.
        memory_limit, token_limit, seat_limit: admissions per iteration that KV memory, the token budget and
            the seats allow; infinite without such a limit.
        limit: which of them is least: "memory", "token budget" or "seats".
        binding: the same, or "compute" when raising that limit gains nothing (eta < `COMPUTE_BOUND_ETA`).
        residents: n* = x*·E[iterations], the concurrency at the boundary.
        iteration_time_s: ΔT_max = c0 + w x*.
        eta: c0/ΔT_max, the elasticity of the boundary rate to the least limit.
        time_shares: the time of an iteration at the boundary, by term.
        load: ρ = λ/λ_max.
        rate_variance: of the arrivals, for which `onset_load` and `kv_peak` are made; 0 for Poisson arrivals.
        onset_load: ρ at which two standard deviations of greedy admission's KV reach the capacity; below it
            every work-conserving policy acts alike. None when that is beyond the boundary.
        kv_use: M*/C at this load; at the boundary's when the load is above 1.
        kv_use_at_boundary: the same at ρ = 1; 1 when memory is the least limit.
        kv_peak: (M* + 2·sqrt(V))/C, what greedy admission's KV reaches at this load; at the boundary's when the
            load is above 1. Above 1 it overflows. Bursts raise it to 1 at most.
        watermark: see `free_share_for_growth`.
        eviction_cost: share of the boundary rate that one eviction per request costs, see `_eviction_cost`.
        coherence: χ of the output lengths, see `coherence`.
    """

    rate: float
    boundary_rate: float
    admissions_per_iteration: float
    memory_limit: float
    token_limit: float
    seat_limit: float
    limit: str
    binding: str
    residents: float
    iteration_time_s: float
    eta: float
    time_shares: TimeShares
    load: float
    rate_variance: float
    onset_load: float | None
    kv_use: float
    kv_use_at_boundary: float
    kv_peak: float
    watermark: float
    eviction_cost: float
    coherence: float

    @property
    def onset_rate(self) -> float | None:
        """The onset load as a rate, requests per second."""
        return None if self.onset_load is None else self.onset_load * self.boundary_rate

    def empty_memory_cost(self, share: float) -> float:
        """The share of the boundary rate that leaving `share` of the KV memory empty at all times costs.

        With r = x*(less memory)/x*, the boundary c0 + w x* gives 1 - r/(η + (1 - η)r) = η(1 - r)/(η + (1 - η)r).

        Raises:
            InputError: a share outside [0, 1).
        """
        if not 0.0 <= share < 1.0:
            raise InputError(f"share of memory to leave empty = {share} must be at least 0 and below 1")
        ratio = min(1.0, (1.0 - share) * self.memory_limit / self.admissions_per_iteration)
        return self.eta * (1.0 - ratio) / (self.eta + (1.0 - self.eta) * ratio)


def stability(
    mix: RequestMix,
    step_time: StepTime,
    limits: Limits,
    at_load: StepTime | None = None,
    rate_variance: float = 0.0,
) -> Stability:
    """The boundary of `mix` on a machine.

    Args:
        at_load: the step time below the boundary, at the rate of the mix, where it differs there.
        rate_variance: how much burstier the arrivals are than Poisson's (`Burstiness.rate_variance`); 0: not at all.

    Raises:
        InputError: a request is larger than the KV memory.
    """
    limits.refuse_oversized(mix)
    work_s = mix.mean(mix.work_s(step_time))
    entries = _most_admissions(mix, limits)
    limit = min(entries, key=entries.__getitem__)
    x = entries[limit]
    iteration_time_s = step_time.c0 + work_s * x
    boundary_rate = x / iteration_time_s
    eta = step_time.c0 / iteration_time_s
    load = mix.total_rate / boundary_rate
    if isclose(load, 1.0, rel_tol=ROUNDING):  # the boundary as a rate, and back
        load = 1.0
    below = step_time if at_load is None else at_load
    kv_use = min(x, _admissions(mix, below) if load < 1.0 else x) / entries["memory"]
    return Stability(
        rate=mix.total_rate,
        boundary_rate=boundary_rate,
        admissions_per_iteration=x,
        memory_limit=entries["memory"],
        token_limit=entries["token budget"],
        seat_limit=entries["seats"],
        limit=limit,
        binding="compute" if eta < COMPUTE_BOUND_ETA else limit,
        residents=x * mix.mean(mix.iterations),
        iteration_time_s=iteration_time_s,
        eta=eta,
        time_shares=_time_shares(mix, step_time, boundary_rate, eta),
        load=load,
        rate_variance=rate_variance,
        onset_load=_onset_load(mix, step_time, limits, x, rate_variance),
        kv_use=kv_use,
        kv_use_at_boundary=x / entries["memory"],
        kv_peak=_kv_peak(mix, below, limits, kv_use, rate_variance),
        watermark=free_share_for_growth(mix, limits),
        eviction_cost=_eviction_cost(mix, step_time, boundary_rate),
        coherence=coherence(mix),
    )


def largest_admissions(mix: RequestMix, limits: Limits) -> float:
    """x*: admissions per iteration at the boundary, which no step time changes (model.md §2)."""
    return min(_most_admissions(mix, limits).values())


def _most_admissions(mix: RequestMix, limits: Limits) -> dict[str, float]:
    """Admissions per iteration that each limit allows."""
    return {
        "memory": limits.kv_tokens / mix.mean(mix.memory_token_iterations(limits.law)),
        "token budget": limits.batched_tokens / mix.mean(mix.tokens),
        "seats": limits.seats / mix.mean(mix.iterations),
    }


def free_share_for_growth(mix: RequestMix, limits: Limits) -> float:
    """The share of KV blocks to keep free at saturation: two standard deviations of the residents' KV.

    The variance is that of model.md §6 at ρ = 1, V = n·(spread of one resident's KV) + n·k̄²·ΔT/c0, without
    its second term: under saturation the gate, not the Poisson stream, sets the number of residents n*, so
    only their sizes vary. Clipped to `WATERMARK_RANGE`.
    """
    iterations = mix.mean(mix.iterations)
    resident = mix.mean(mix.memory_token_iterations(limits.law)) / iterations
    spread = mix.mean(mix.squared_memory_iterations(limits.law)) / iterations - resident**2
    residents = limits.kv_tokens / resident
    share = 2.0 * sqrt(residents * max(spread, 0.0)) / limits.kv_tokens
    return float(np.clip(share, *WATERMARK_RANGE))


def _eviction_cost(mix: RequestMix, step_time: StepTime, boundary_rate: float) -> float:
    """1 - 1/(1 + w_rec·λ_max): what the rate falls by when each request computes its KV again once (model.md §9).

    Assumes that a victim is a resident drawn at random and recomputes all its KV in one iteration: at mean age,
    E[a]/E[o] tokens, which is the prompt and E[o²]/(2E[o]) tokens less one half. Engines evict the last admitted,
    which is younger; blocks found again in the prefix cache cost nothing; chunks read some KV again. That iteration
    gives the next token as well, so the request is scheduled no more often than without an eviction.
    """
    kv, pairs = mix.kv_token_iterations, 0.5 * (mix.squared_memory_iterations(KvLaw.full(1)) + mix.kv_token_iterations)
    again_s = mix.mean(step_time.duration_s(kv, 0, pairs, 0) - step_time.c0) / mix.mean(mix.iterations)
    return again_s * boundary_rate / (1.0 + again_s * boundary_rate)


def coherence(mix: RequestMix) -> float:
    """χ = max |E exp(iωO)| over ω in [0.7, 6]·2π/E[O], for output lengths O.

    It is 1 when the lengths share a lattice, so that cohorts stay in phase (model.md §8). The transform is
    sampled at multiples of 2π/N; folding the lengths modulo N leaves those samples exact.
    """
    lengths = mix.iterations.astype(np.int64)
    size = 1 << min(20, int(32 * lengths.max()).bit_length())
    weights = np.bincount(lengths % size, weights=mix.rate / mix.total_rate, minlength=size)
    spectrum = np.abs(np.fft.rfft(weights))
    per_mean = size / mix.mean(lengths)
    low, high = int(np.floor(0.7 * per_mean)), int(np.ceil(6.0 * per_mean))
    if high - low >= size:
        return 1.0  # the band holds a multiple of 2π, where every whole length is in phase
    turns = np.arange(low, high + 1) % size
    return float(min(1.0, spectrum[np.minimum(turns, size - turns)].max()))


def _admissions(mix: RequestMix, step_time: StepTime) -> float:
    """x = λΔT in equilibrium, λc0/(1 - λw); infinite where the work alone takes all the time (model.md §2)."""
    busy = mix.total_rate * mix.mean(mix.work_s(step_time))
    return mix.total_rate * step_time.c0 / (1.0 - busy) if busy < 1.0 else inf


def _kv_peak(mix: RequestMix, step_time: StepTime, limits: Limits, kv_use: float, rate_variance: float) -> float:
    """(M* + 2·sqrt(V))/C where M* = `kv_use`·C."""
    if step_time.c0 == 0.0:
        return kv_use  # the engine is empty until the work itself takes all the time, then full
    fluctuation = Fluctuation.of(mix, step_time, limits)
    x = kv_use * limits.kv_tokens / fluctuation.kv_iterations
    bursty, even = (fluctuation.peak(x, variance) / limits.kv_tokens for variance in (rate_variance, 0.0))
    return bursty if bursty < even else max(even, min(bursty, 1.0))


def limit_shares(mix: RequestMix, limits: Limits) -> FloatArray:
    """What a request of each type takes of memory, token budget and seats, shape (3, J): shares of an iteration's.

    They are summed over the iterations of its life.
    """
    return np.array(
        [
            mix.memory_token_iterations(limits.law) / limits.kv_tokens,
            mix.tokens / limits.batched_tokens,
            mix.iterations / limits.seats,
        ]
    )


def bound_seconds(mix: RequestMix, step_time: StepTime, limits: Limits) -> FloatArray:
    """What the bound on every policy gives each type, shape (J,), seconds: its work, and its part of the fixed cost.

    The part is the share of an iteration's least limit that the request takes over its life, times c0, so that the
    mean over requests is 1/λ_max = w + c0/x* (model.md §2).
    """
    least: FloatArray = max(limit_shares(mix, limits), key=mix.mean)
    return mix.work_s(step_time) + step_time.c0 * least


def _onset_load(
    mix: RequestMix, step_time: StepTime, limits: Limits, x_boundary: float, rate_variance: float
) -> float | None:
    """The root of M*(ρ) + 2·sqrt(V(ρ)) = C; None beyond the boundary."""
    if step_time.c0 == 0.0:
        return 1.0  # the engine is empty until the work itself takes all the time
    x = Fluctuation.of(mix, step_time, limits).onset(x_boundary, rate_variance)
    if x is None:
        return None
    work_s = mix.mean(mix.work_s(step_time))
    return (x / x_boundary) * (step_time.c0 + work_s * x_boundary) / (step_time.c0 + work_s * x)


def _time_shares(mix: RequestMix, step_time: StepTime, rate: float, eta: float) -> TimeShares:
    return TimeShares(
        fixed=eta,
        tokens=rate * step_time.c_tok * mix.mean(mix.tokens),
        kv=rate * step_time.c_kv * mix.mean(mix.kv_token_iterations),
        attention=rate * step_time.c_attn * mix.mean(mix.attention_pairs),
        sequences=rate * step_time.c_seq * mix.mean(mix.iterations),
    )
