"""The search on one machine, as a job: from the fewest replicas that can keep up, the first that keep the promise.

Counts rise one by one, since nothing proves that a replica more never hurts. At a count, short runs drop the settings
that fail for certain, and the others are tried in long runs in order of preference; the first that holds is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import Stability
from fluidgate.hardware import Hardware
from fluidgate.runs.frontier import FIRST_LOOK
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.size.bounds import OVERLOADED, can_be_ruled_out, law_of, why_overloaded, why_too_slow
from fluidgate.runs.size.candidates import Choices, Flags, Machine
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.trials import Certainty, Outcome, Replications, Trial

WORTH_MORE = 3
"""So many settings that few runs leave undecided are run on, those nearest to holding; and all that hold on average."""


@dataclass(frozen=True)
class Count:
    """What was found for a number of replicas.

    Attributes:
        replicas: how many.
        holds: whether a setting holds; None: the nearest is undecided.
        why: what rules it out without a run; empty where runs decided.
        flags: the setting that holds, or is nearest to.
        outcome: its long runs, or the short ones that dropped it; None without a run.
        load: rate ÷ the boundary of all replicas together, at the server's own limits.
        fooled: settings that hold in short runs and are not shown to in long ones.
    """

    replicas: int
    holds: bool | None
    why: str
    flags: Flags
    outcome: Outcome | None
    load: float
    fooled: tuple[Flags, ...] = ()

    @property
    def overloaded(self) -> bool:
        """Whether it is ruled out because it cannot keep up."""
        return self.why.startswith(OVERLOADED)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Count:
        """As a `Runner` gives it."""
        outcome = row["outcome"] and Outcome.from_dict(row["outcome"])
        fooled = tuple(Flags(**flags) for flags in row["fooled"])
        return cls(**{**row, "flags": Flags(**row["flags"]), "outcome": outcome, "fooled": fooled})


@dataclass(frozen=True)
class Found:
    """All counts that were tried on a machine, rising; the last one holds, if any does.

    Attributes:
        why_not: why no count was tried.
        boundary_rate, limit: of one replica at the server's own limits, requests per second, and what is least there.
        runs: simulations that it took.
    """

    why_not: str
    boundary_rate: float
    limit: str
    counts: tuple[Count, ...]
    runs: int

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Found:
        """As a `Runner` gives it."""
        return cls(**{**row, "counts": tuple(map(Count.from_dict, row["counts"]))})

    @property
    def answer(self) -> Count | None:
        """The count that holds."""
        return self.counts[-1] if self.counts and self.counts[-1].holds else None


@dataclass(frozen=True)
class MachineSearch:
    """A job.

    Attributes:
        machine: what one replica is.
        least, most: replicas to try.
        refuted: settings that are known not to be enough at `least`.
    """

    machine: Machine
    least: int
    most: int
    refuted: tuple[Flags, ...] = ()


class MachineSearches:
    """What all searches share; called with one, gives the fields of its `Found`.

    Args:
        policy_file: a Python file that registers policies; a worker loads it once.
    """

    def __init__(
        self,
        demand: Demand,
        config: EngineConfig,
        choices: Choices,
        certainty: Certainty,
        policy_file: Path | None = None,
    ) -> None:
        self.demand, self.config, self.choices, self.certainty = demand, config, choices, certainty
        self.policy_file = policy_file and policy_file.absolute()

    def __call__(self, job: MachineSearch) -> dict[str, Any]:
        load_policies_once(self.policy_file)
        return asdict(self.search(job))

    def search(self, job: MachineSearch) -> Found:
        """Raise the count until one holds, or there are no more."""
        hardware = job.machine.hardware
        if hardware is None:
            return Found(job.machine.why_not, float("nan"), "", (), 0)
        try:
            law = law_of(self.demand, hardware, self.config)
        except InputError as reason:  # a request that can never fit, or a table of step times that does not reach
            return Found(str(reason), float("nan"), "", (), 0)
        search = _Search(self, hardware, law)
        counts = tuple(search.counts(job))
        return Found("", law.boundary_rate, law.limit, counts, search.runs)


class _Search:
    """One machine's."""

    def __init__(self, shared: MachineSearches, hardware: Hardware, law: Stability) -> None:
        self.shared, self.hardware, self.law = shared, hardware, law
        self.runs = 0

    def counts(self, job: MachineSearch) -> Iterator[Count]:
        """One after the other, up to the first that holds."""
        for replicas in range(job.least, job.most + 1):
            settings = self.shared.choices.flags(self.hardware, self.shared.config, replicas)
            if replicas == job.least:
                settings = tuple(flags for flags in settings if flags not in job.refuted)
            if settings:
                count = self._count(replicas, settings)
                yield count
                if count.holds:
                    return

    def _count(self, replicas: int, settings: Sequence[Flags]) -> Count:
        demand, config, load = self.shared.demand, self.shared.config, self.law.load / replicas
        possible, reasons = [], []
        for flags in settings:
            why = _why_not(demand, self.hardware, flags.engine(config), replicas)
            if why:
                reasons.append(why)
            else:
                possible.append(flags)
        if not possible:
            return Count(replicas, False, reasons[0], settings[0], None, load)
        return self._raced(replicas, possible, load)

    def _raced(self, replicas: int, settings: Sequence[Flags], load: float) -> Count:
        """Short runs of all settings, then long ones of those that they leave."""
        short = {flags: self._outcome(self._runs_of(replicas, flags, short=True)) for flags in settings}
        left = [flags for flags in settings if short[flags].holds is not False]
        long = self._long(replicas, left)
        held = next((pair for pair in long.items() if pair[1].holds), None)
        flags, outcome = held or min((long or short).items(), key=_nearness)
        fooled = () if held else tuple(flags for flags in long if short[flags].holds)
        return Count(replicas, outcome.holds, "", flags, outcome, load, fooled)

    def _long(self, replicas: int, settings: Sequence[Flags]) -> dict[Flags, Outcome]:
        """Few runs of each setting, up to one that holds; then more of those before it that may hold as well."""
        runs = {flags: self._runs_of(replicas, flags, short=False) for flags in settings}
        first: dict[Flags, Outcome] = {}
        for flags in settings:
            first[flags] = self._outcome(runs[flags], FIRST_LOOK)
            if first[flags].holds:
                break
        open_ = sorted((flags for flags in first if first[flags].holds is None), key=lambda f: first[f].excess)
        worth = {flags for place, flags in enumerate(open_) if place < WORTH_MORE or first[flags].excess <= 0.0}
        outcomes = dict(first)
        for flags in first:
            if flags in worth:
                outcomes[flags] = self._outcome(runs[flags])
                if outcomes[flags].holds:
                    break
        return outcomes

    def _runs_of(self, replicas: int, flags: Flags, *, short: bool) -> Replications:
        shared = self.shared
        trial = Trial(
            self.hardware,
            flags,
            replicas,
            short=short,
            first_seed=shared.demand.seed,
            replications=shared.certainty.replications,
        )
        return Replications(trial, shared.demand, shared.config, shared.certainty.alpha)

    def _outcome(self, runs: Replications, most: int | None = None) -> Outcome:
        before = len(runs)
        outcome = runs.outcome(most)
        self.runs += len(runs) - before
        return outcome


def _nearness(pair: tuple[Flags, Outcome]) -> tuple[bool, float]:
    return pair[1].holds is False, pair[1].excess


def _why_not(demand: Demand, hardware: Hardware, config: EngineConfig, replicas: int) -> str:
    if not can_be_ruled_out(demand, config):
        return ""
    return _too_slow(demand, hardware, config) or why_overloaded(
        _law(demand, hardware, config), hardware, demand, replicas
    )


_law = lru_cache(maxsize=64)(law_of)
_too_slow = lru_cache(maxsize=64)(lambda demand, hardware, config: why_too_slow(hardware, demand, config))
