"""`prefill_interval`: the `prefill_schedule_interval` with the least mean E2E, from a mean-field cycle of steps.

WAIT (model.md §3) lets requests enter in groups, one group a period. In an engine whose decodes always run, the period
is that of the steps that compute prompts: N - 1 steps of decodes, then one with the prompts that have come. What a
period of T seconds costs a request is T/2 of waiting. What it gains is fewer steps with prompts in which it decodes,
and so as much as such a step costs more than its tokens do: where prompts wake experts that decodes do not, or leave
the CUDA graphs. Where a step's time is affine it costs no more, and the best period is the shortest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.fluid.equilibrium import Equilibrium
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.stability import Stability
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.step_grid import StepGrid
from fluidgate.words import number, percent

INTERVALS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
LEAST_GAIN = 0.03
"""Of mean E2E: of smaller predicted gains most were none in simulation (docs/cadence.md)."""

ENGINES, ROUNDS, SETTLED, POOL = 384, 120, 60, 4096
LEAST_ENDED = 1e-9


@dataclass(frozen=True)
class PrefillInterval:
    """A `prefill_schedule_interval`, and what it does to the mean E2E latency.

    Attributes:
        steps: N; 1 where no interval gains 3% of mean E2E.
        gain: the share of mean E2E that it saves over N = 1.
        period_s: seconds from one step with prompts to the next, on average: WAIT's period for an engine whose decodes
            always run.
        e2e_s: predicted mean E2E for each of `INTERVALS`, seconds; empty where no interval can gain.
    """

    steps: int
    gain: float
    period_s: float
    e2e_s: tuple[float, ...]

    @property
    def row(self) -> str:
        """In words, for tables."""
        if self.steps == 1:
            return "1: none shortens mean E2E"
        return f"{self.steps} steps ({number(1e3 * self.period_s)} ms): {percent(self.gain)} less mean E2E"

    @property
    def sentence(self) -> str:
        """For the verdict; empty where nothing gains."""
        if self.steps == 1:
            return ""
        return (
            f"Steps with prompts cost more than their tokens: --prefill-schedule-interval {self.steps} (vLLM 0.33) "
            f"lets prompts share them and saves about {percent(self.gain)} of mean E2E; a prompt waits for up to "
            f"{number(1e3 * self.period_s)} ms."
        )


def prefill_interval(
    mix: RequestMix, hardware: Hardware, limits: Limits, stable: Stability, steady_state: Equilibrium | None
) -> PrefillInterval:
    """The interval for `mix` at its own rate.

    N = 1 on a machine whose step time is affine, where no prompts are computed, and above the boundary: there requests
    pile up, and the engine lets the interval go.
    """
    if stable.load >= 1.0 or hardware.grid is None or mix.prompts_computed:
        step_s = stable.iteration_time_s if steady_state is None else steady_state.iteration_time_s
        return PrefillInterval(1, 0.0, max(step_s, 1.0 / mix.total_rate), ())
    cycles = [_Cycles(mix, hardware.grid, limits, stable).settle(steps) for steps in INTERVALS]
    e2e_s, period_s = zip(*cycles, strict=True)
    best = int(np.argmin(e2e_s))
    gain = 1.0 - e2e_s[best] / e2e_s[0]
    if gain < LEAST_GAIN:
        best, gain = 0, 0.0
    return PrefillInterval(INTERVALS[best], gain, period_s[best], e2e_s)


class _Cycles:
    """Many engines at once, each with its number of decodes: a round is a cycle of steps in all of them.

    A cycle is the decodes that the interval holds prompts for, those until one has come, and the steps that compute
    what has come by then. Decodes end at random, each after as many steps as outputs have tokens on average.
    """

    def __init__(self, mix: RequestMix, grid: StepGrid, limits: Limits, stable: Stability) -> None:
        self.grid, self.rate = grid, mix.total_rate
        self.budget = min(limits.batched_tokens, grid.max_tokens)
        self.most = min(stable.residents, limits.seats, grid.max_decodes)
        later = mix.iterations - 1.0
        self.longest, self.mean_later = float(later.max()), mix.mean(later)
        mean = self.mean_later
        self.decoding = mix.mean(later > 0)  # share of the requests
        self.staying = max(0.0, 1.0 - self.decoding / mean) if mean > 0 else 0.0
        in_decode = mix.mean(mix.kv_token_iterations - mix.prompt_tokens)
        self.context = max(1.0, in_decode / mean) if mean > 0 else 1.0
        self.rng = np.random.default_rng(0)
        prompts = np.tile(self.rng.choice(mix.prompt_tokens, POOL, p=mix.rate / self.rate).astype(np.float64), 2)
        self.tokens_before = np.concatenate([[0.0], np.cumsum(prompts)])
        self.pairs_before = np.concatenate([[0.0], np.cumsum(0.5 * prompts * (prompts + 1.0))])

    def settle(self, steps: int) -> tuple[float, float]:
        """(mean E2E by Little's law, mean period) in seconds, with prompts in one step of `steps`."""
        most_held = min(steps - 1.0, self.longest)  # then no decode is left that prompts could disturb
        decodes, mixed_s, none = np.ones(ENGINES), np.zeros(ENGINES), np.zeros(ENGINES)
        present_s = requests = time_s = 0.0  # ∫ requests in the engine, those that came, ∫ time
        for turn in range(ROUNDS):
            decode_s = self._seconds(np.maximum(decodes, 1.0), none, none, none)
            held = most_held * (self.rng.random(ENGINES) > np.exp(-decodes))  # an engine without decodes holds nothing
            open_s = mixed_s + held * decode_s
            came = self.rng.poisson(self.rate * open_s)
            idle = np.where(came > 0, 0, self.rng.geometric(-np.expm1(-self.rate * decode_s)))
            waited_s = np.where(came > 0, came * open_s, decode_s) / 2.0
            came = np.maximum(came, 1)
            left = decodes * self.staying ** (held + idle)
            decoded_s = (decodes - left) / (1.0 - self.staying) * decode_s
            chunks, mixed_s = self._prompts(left, came)
            own_s = came * mixed_s * (chunks + 1.0) / (2.0 * chunks)
            if turn >= ROUNDS - SETTLED:
                present_s += float((waited_s + own_s + decoded_s + left * mixed_s).sum())
                requests += float(came.sum())
                time_s += float(((held + idle) * decode_s + mixed_s).sum())
            staying = left * self.staying**chunks
            if turn < ROUNDS - SETTLED:  # by themselves they would take as many steps as outputs have tokens
                began = self.rate * self.decoding * float(((held + idle) * decode_s + mixed_s).sum())
                ended = float((decodes - staying).sum())
                staying *= (began / max(ended, LEAST_ENDED)) ** (0.5 * (1.0 - turn / (ROUNDS - SETTLED)))
            decodes = np.clip(staying + came * self.decoding, 0.0, self.most)
        return present_s / requests, time_s / (SETTLED * ENGINES)

    def _prompts(self, decodes: FloatArray, came: IntArray) -> tuple[FloatArray, FloatArray]:
        """(steps, seconds) that so many prompts take beside the decodes."""
        at = self.rng.integers(0, POOL, ENGINES)
        taken = np.minimum(came, POOL)
        tokens = self.tokens_before[at + taken] - self.tokens_before[at]
        pairs = self.pairs_before[at + taken] - self.pairs_before[at]
        room = np.maximum(1.0, self.budget - decodes)
        chunks = np.maximum(1.0, np.ceil(tokens / room))
        return chunks, chunks * self._seconds(decodes, tokens / chunks, pairs / chunks, came / chunks)

    def _seconds(self, decodes: FloatArray, tokens: FloatArray, pairs: FloatArray, prompts: FloatArray) -> FloatArray:
        """Seconds of steps with prompts of so many tokens."""
        own_s = self.grid.tables_s(decodes, decodes * self.context, tokens, pairs)
        return own_s + self.grid.sequence_s * (decodes + prompts)
