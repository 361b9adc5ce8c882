"""The proof of an answer: what holds on fresh seeds, what fails, and how much room there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from fluidgate.hardware import Hardware
from fluidgate.runs.frontier import FIRST_LOOK
from fluidgate.runs.jobs import Runner
from fluidgate.runs.size.answer import Break, Cause, Cheaper, Option, Proof
from fluidgate.runs.size.bounds import can_be_ruled_out
from fluidgate.runs.size.candidates import Flags, Machine
from fluidgate.runs.size.search import Count, Found
from fluidgate.runs.size.trials import OUTCOME_SHAPE, Outcome, Trial, Trials

FRESH = 1_000_000
"""The seeds of a proof begin so far above those of the search."""

FEWEST_RUNS, MOST_RUNS = 16, 64
"""Of a fleet in its proof: few runs may all have missed the burst that breaks it."""

GROWTH_STEP, COARSE_STEP, MOST_GROWTH = 1.05, 1.25, 4.0
"""Rates at which the answer and the other options are tried, and the largest of them, as factors."""

SLOWDOWNS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SHOWN = 6
"""Options whose room to grow is looked for."""


class Prover:
    """Runs trials on fresh seeds; counts them in `runs`."""

    def __init__(self, trials: Trials, runner: Runner, header: dict[str, Any]) -> None:
        self.trials, self.runner, self.header = trials, runner, header
        self.demand, self.config = trials.demand, trials.config
        self.bounded = can_be_ruled_out(trials.demand, trials.config)
        self.runs = 0

    def tested(self, option: Option) -> Outcome:
        """What the proof's runs say of an option."""
        return self._outcomes([self._trial(option.machine, option.flags, option.replicas)])[0]

    def cheaper(self, option: Option, machines: Sequence[Machine], found: Sequence[Found]) -> tuple[Cheaper, ...]:
        """The next cheaper fleet, of several the nearest to holding, and all cheaper ones that were left undecided."""
        below = [pair for pair in _by_cost(machines, found) if pair[1].replicas * pair[0].unit_cost < option.cost]
        return self._tried(below[:1] + [pair for pair in below[1:] if pair[1].holds is None])

    def proof(self, option: Option, outcome: Outcome, cheaper: tuple[Cheaper, ...]) -> Proof:
        """What was tested, and how far an option holds that does."""
        scan = self._scanned([option], GROWTH_STEP)[0]
        breaks = tuple(
            Break(str(objective), next((growth for growth, run in scan if run.excesses[place] > 0.0), math.inf))
            for place, objective in enumerate(self.demand.objectives)
        )
        return Proof(
            outcome=outcome,
            cheaper=cheaper,
            growth=_held(scan),
            tried=max((growth for growth, _ in scan), default=1.0),
            breaks=breaks,
            cause=self._cause(option, breaks, dict(scan)),
            slowdown=self._slowdown(option),
        )

    def with_growth(self, options: Sequence[Option], proof: Proof) -> list[Option]:
        """The options with their room to grow: the first as proved, a few more in larger steps."""
        answer = replace(options[0], growth=proof.growth, growth_step=GROWTH_STEP)
        others = options[1:SHOWN]
        grown = [
            replace(option, growth=_held(scan), growth_step=COARSE_STEP)
            for option, scan in zip(others, self._scanned(others, COARSE_STEP), strict=True)
        ]
        return [answer, *grown, *options[SHOWN:]]

    def undecided(self, machines: Sequence[Machine], found: Sequence[Found]) -> tuple[Cheaper, ...]:
        """The fleets that the search left undecided, run on; the dearest first."""
        left = [pair for pair in _by_cost(machines, found) if pair[1].holds is None]
        return self._tried(left)

    @staticmethod
    def enough(fleets: Sequence[Cheaper]) -> Cheaper | None:
        """The cheapest of them that holds; they come the dearest first."""
        holding = [fleet for fleet in fleets if fleet.outcome is not None and fleet.outcome.holds]
        return holding[-1] if holding else None

    def _tried(self, fleets: Sequence[tuple[Machine, Count]]) -> tuple[Cheaper, ...]:
        """What the proof's runs say of each that no bound rules out."""
        trials = [self._trial(machine, count.flags, count.replicas) for machine, count in fleets if not count.why]
        outcomes = iter(self._outcomes(trials))
        return tuple(
            Cheaper(machine, count.replicas, count.flags, count.why, None if count.why else next(outcomes))
            for machine, count in fleets
        )

    def _scanned(self, options: Sequence[Option], step: float) -> list[list[tuple[float, Outcome]]]:
        """Of each option rising factors on the rate, and a look at it there."""
        growths = [self._growths(option, step) for option in options]
        pairs = zip(options, growths, strict=True)
        outcomes = iter(self._outcomes([self._few(option, growth) for option, some in pairs for growth in some]))
        return [[(growth, next(outcomes)) for growth in some] for some in growths]

    def _cause(self, option: Option, breaks: Sequence[Break], scan: Mapping[float, Outcome]) -> Cause | None:
        """Of what there would have to be twice as much (of prompt time half): what takes most of the excess away.

        Where none of it takes half of the excess away, it is the time of steps as a whole.
        """
        place = min(range(len(breaks)), key=lambda k: breaks[k].growth)
        growth = breaks[place].growth
        if math.isinf(growth):
            return None
        missed = scan[growth].excesses[place]
        hardware, own = _hardware(option.machine), option.flags.engine(self.config).on(_hardware(option.machine))
        seats, budget = own.seats, own.max_num_batched_tokens
        doubled: dict[Cause, tuple[Hardware, Flags]] = {
            "KV memory": (hardware.with_cache(2 * hardware.num_gpu_blocks), option.flags),
            "seats": (hardware, replace(option.flags, max_num_seqs=2 * seats)),
            "prompt time": (hardware.with_prompt_factor(0.5), option.flags),
        }
        if budget is not None:
            doubled["the token budget"] = (hardware, replace(option.flags, max_num_batched_tokens=2 * budget))
        trials = [
            replace(self._few(option, growth), hardware=machine, flags=flags) for machine, flags in doubled.values()
        ]
        left = dict(zip(doubled, [outcome.excesses[place] for outcome in self._outcomes(trials)], strict=True))
        best = min(left, key=left.__getitem__)
        return best if left[best] <= missed / 2.0 else "step time"

    def _slowdown(self, option: Option) -> float:
        hardware = _hardware(option.machine)
        trials = [replace(self._few(option), hardware=hardware.slower(1.0 + share)) for share in SLOWDOWNS]
        slowest = 0.0
        for share, outcome in zip(SLOWDOWNS, self._outcomes(trials), strict=True):
            if outcome.excess > 0.0:
                break
            slowest = share
        return slowest

    def _growths(self, option: Option, step: float) -> list[float]:
        """Factors on the rate, the last of them at the boundary, beyond which nothing holds for long."""
        most = min(MOST_GROWTH, 1.0 / option.load) if self.bounded else MOST_GROWTH
        count = int(np.log(most) / np.log(step)) if most > 1.0 else 0
        steps = [float(step**k) for k in range(1, count + 1)]
        return [*(growth for growth in steps if growth < most), most] if most > 1.0 else []

    def _trial(self, machine: Machine, flags: Flags, replicas: int) -> Trial:
        first = self.demand.seed + FRESH
        return Trial(
            _hardware(machine), flags, replicas, first_seed=first, replications=MOST_RUNS, first_look=FEWEST_RUNS
        )

    def _few(self, option: Option, growth: float = 1.0) -> Trial:
        """A look at a changed demand or machine, without a test."""
        trial = self._trial(option.machine, option.flags, option.replicas)
        return replace(trial, growth=growth, replications=FIRST_LOOK, first_look=FIRST_LOOK)

    def _outcomes(self, trials: Sequence[Trial]) -> list[Outcome]:
        rows = self.runner.run(self.trials, trials, header=self.header, shape=OUTCOME_SHAPE)
        outcomes = [Outcome.from_dict(row) for row in rows]
        self.runs += sum(outcome.runs for outcome in outcomes)
        return outcomes


def _held(scan: Sequence[tuple[float, Outcome]]) -> float:
    """The factor up to which every one that was tried holds on average."""
    held = [growth for growth, _ in takewhile(lambda pair: pair[1].excess <= 0.0, scan)]
    return held[-1] if held else 1.0


def _by_cost(machines: Sequence[Machine], found: Sequence[Found]) -> list[tuple[Machine, Count]]:
    """All fleets that were tried or ruled out, the dearest first; of equal ones the nearest to holding."""
    tried = [(machine, count) for machine, part in zip(machines, found, strict=True) for count in part.counts]
    return sorted(tried, key=lambda pair: (pair[1].replicas * pair[0].unit_cost, _nearness(pair[1])), reverse=True)


def _nearness(count: Count) -> float:
    return -math.inf if count.outcome is None else -count.outcome.excess


def _hardware(machine: Machine) -> Hardware:
    assert machine.hardware is not None, "only machines that take the model are tried"
    return machine.hardware
