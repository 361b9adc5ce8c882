"""`size`: the cheapest fleet that keeps a promise, with proof."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError, unknown
from fluidgate.fluid import FluidPlan
from fluidgate.metrics import Objective, Slo, parse_objectives
from fluidgate.policies import policy_class
from fluidgate.runs.jobs import Runner
from fluidgate.runs.policy_runs import load_policies_once
from fluidgate.runs.result_shape import shape_of
from fluidgate.runs.size.answer import Cheaper, Nearest, Option, Proof, Sizing
from fluidgate.runs.size.candidates import Choices, Flags, Machine
from fluidgate.runs.size.demand import DEFAULT_REQUESTS, Demand
from fluidgate.runs.size.proof import Prover
from fluidgate.runs.size.search import Count, Found, MachineSearch, MachineSearches
from fluidgate.runs.size.trials import Certainty, Outcome, Trials, planned
from fluidgate.workload import PRESETS, Synthetic, Workload

MAX_GPUS = 16
"""Of a fleet, if not said otherwise."""

MAX_REPLICAS = 16


def size(
    source: Workload | Synthetic | str,
    machines: Sequence[Machine],
    objectives: Sequence[Objective | str],
    *,
    rate: float | None = None,
    growth: float = 1.0,
    slo: Slo | None = None,
    max_gpus: int = MAX_GPUS,
    choices: Choices | None = None,
    config: EngineConfig | None = None,
    requests: int = DEFAULT_REQUESTS,
    alpha: float = 0.05,
    replications: int = 16,
    seed: int = 0,
    policy_file: Path | None = None,
    runner: Runner | None = None,
) -> Sizing:
    """Find the cheapest fleet on which all objectives hold, and prove it on seeds that the search never saw.

    Args:
        source: a preset's name or a synthetic workload, from which every run draws again, or a recorded workload, from
            which runs are block-bootstrapped.
        machines: what a replica can be, see `machines_of`.
        objectives: what must hold, as `Objective`s or as `parse_objectives` takes them.
        rate: requests per second; None: the source's own.
        growth: factor on it.
        slo: what a good request is, where a goodput is among the objectives.
        max_gpus: of a fleet; it has at most `MAX_REPLICAS` replicas.
        choices: the settings that are tried, in order of preference.
        config: the engine's settings that stay.
        requests: of a long run.
        alpha: the probability that a decision is wrong is at most this.
        replications: most runs of a candidate in the search.
        seed: of the first run.
        policy_file: Python file that registers policies of your own.
        runner: where searches happen and are kept; the numbers are the same. None: one after the other, here.

    Raises:
        InputError: no objective, or one that another implies; a rate that is none; an unknown policy, router or preset.
        JobFailed: workers keep dying at the same search.
    """
    traffic = _source(source)
    given = tuple(item for objective in objectives for item in _objectives(objective, slo))
    demand = Demand(traffic, growth * (_rate(traffic) if rate is None else rate), given, slo, requests, seed)
    question = _Question(
        demand, config or EngineConfig(), choices or Choices(), Certainty(alpha, replications), policy_file
    )
    load_policies_once(policy_file and policy_file.absolute())
    for spec in question.choices.policies:
        policy_class(spec.partition(":")[0])
    return _Study(question, tuple(machines), max_gpus, runner or Runner()).answer()


@dataclass(frozen=True)
class _Question:
    """What is asked, machines apart."""

    demand: Demand
    config: EngineConfig
    choices: Choices
    certainty: Certainty
    policy_file: Path | None

    def header(self) -> dict[str, Any]:
        """What the numbers depend on besides the jobs, for a results file."""
        return {
            "command": "size",
            "demand": self.demand.identity(),
            "engine": asdict(self.config),
            "choices": asdict(self.choices),
            "certainty": asdict(self.certainty),
            "policy_file": self.policy_file and hashlib.sha256(self.policy_file.read_bytes()).hexdigest()[:12],
        }


COUNT_SHAPE = shape_of(Count, flags=shape_of(Flags), outcome=dict | None, fooled=[shape_of(Flags)])
FOUND_SHAPE = shape_of(Found, counts=[COUNT_SHAPE])
"""Of what a search gives."""


class _Study:
    """From the search to the proof."""

    def __init__(self, question: _Question, machines: tuple[Machine, ...], max_gpus: int, runner: Runner) -> None:
        self.question, self.machines, self.runner, self.max_gpus = question, machines, runner, max_gpus
        self.most = [min(MAX_REPLICAS, max_gpus // machine.tp) for machine in machines]
        if not any(self.most):
            raise InputError(f"max_gpus = {max_gpus} is less than one replica of any machine needs; raise it")

    def answer(self) -> Sizing:
        """Search all machines, then prove the cheapest."""
        question = self.question
        found = self._searched([MachineSearch(m, 1, most) for m, most in zip(self.machines, self.most, strict=True)])
        trials = Trials(question.demand, question.config, question.certainty.alpha, question.policy_file)
        prover = Prover(trials, self.runner, question.header())
        options, proof = self._proved(prover, found)
        return Sizing(
            workload=question.demand.source.name,
            rate=question.demand.rate,
            objectives=question.demand.objectives,
            config=question.config,
            choices=question.choices,
            options=tuple(options),
            proof=proof,
            plan=self._plan(options[0]) if options else None,
            nearest=None if options else self._nearest(found),
            machines=self.machines,
            found=tuple(found),
            short_s=question.demand.draw(question.demand.seed, short=True).duration_s,
            long_s=question.demand.draw(question.demand.seed).duration_s,
            requests=question.demand.taken,
            max_gpus=self.max_gpus,
            seed=question.demand.seed,
            certainty=question.certainty,
            runs=sum(part.runs for part in found) + prover.runs,
        )

    def _proved(self, prover: Prover, found: list[Found]) -> tuple[list[Option], Proof | None]:
        """The options that hold, the cheapest of them proved; `found` learns what the proof's runs say."""
        refuted: dict[tuple[Machine, int], tuple[Flags, ...]] = {}
        while True:
            options = self._options(found)
            if not options:
                enough = prover.enough(prover.undecided(self.machines, found))
                if enough is None:
                    return [], None
                self._take(found, enough)
                continue
            first = options[0]
            outcome = prover.tested(first)
            if not outcome.holds:
                place = first.machine, first.replicas
                refuted[place] = (*refuted.get(place, ()), first.flags)
                self._search_on(found, first, refuted[place], outcome)
                continue
            cheaper = prover.cheaper(first, self.machines, found)
            enough = prover.enough(cheaper)
            if enough is None:
                proof = prover.proof(first, outcome, cheaper)
                return prover.with_growth(options, proof), proof
            self._take(found, enough)

    def _searched(self, jobs: Sequence[MachineSearch]) -> list[Found]:
        question = self.question
        searches = MachineSearches(
            question.demand, question.config, question.choices, question.certainty, question.policy_file
        )
        rows = self.runner.run(searches, jobs, header=question.header(), shape=FOUND_SHAPE)
        return [Found.from_dict(row) for row in rows]

    def _search_on(self, found: list[Found], option: Option, refuted: tuple[Flags, ...], outcome: Outcome) -> None:
        """Go on where a fleet was not proved: with its other settings, then with more replicas."""
        place = self.machines.index(option.machine)
        before = found[place]
        after = self._searched([MachineSearch(option.machine, option.replicas, self.most[place], refuted)])[0]
        last = replace(before.counts[-1], holds=outcome.holds, outcome=outcome)
        again = after.counts[:1] and after.counts[0].replicas == option.replicas
        counts = (*before.counts[:-1], *after.counts) if again else (*before.counts[:-1], last, *after.counts)
        found[place] = replace(after, counts=counts, runs=before.runs + after.runs)

    def _take(self, found: list[Found], enough: Cheaper) -> None:
        """Let a fleet that the search left undecided count as holding, as the proof's runs show."""
        place = self.machines.index(enough.machine)
        counts = tuple(
            replace(count, holds=True, outcome=enough.outcome, fooled=())
            if count.replicas == enough.replicas
            else count
            for count in found[place].counts
            if count.replicas <= enough.replicas
        )
        found[place] = replace(found[place], counts=counts)

    def _options(self, found: Sequence[Found]) -> list[Option]:
        options = [
            Option(machine, count.replicas, count.flags, count.outcome, count.load)
            for machine, part in zip(self.machines, found, strict=True)
            if (count := part.answer) is not None and count.outcome is not None
        ]
        return sorted(options, key=lambda option: (option.cost, option.gpus))

    def _plan(self, option: Option) -> FluidPlan:
        hardware = option.machine.hardware
        assert hardware is not None, "only machines that take the model are tried"
        return planned(self.question.demand, hardware, option.flags.engine(self.question.config), option.replicas)

    def _nearest(self, found: Sequence[Found]) -> Nearest | None:
        tried = [(part.counts[-1], machine) for machine, part in zip(self.machines, found, strict=True) if part.counts]
        if not tried:
            return None
        count, machine = min(tried, key=lambda pair: _distance(pair[0]))
        return Nearest(machine, count)


def _distance(count: Count) -> tuple[bool, float]:
    """Fleets that ran before those that a bound rules out; then by what is missed, or by load."""
    return count.outcome is None, count.load if count.outcome is None else count.outcome.excess


def _source(source: Workload | Synthetic | str) -> Workload | Synthetic:
    if not isinstance(source, str):
        return source
    if source not in PRESETS:
        raise unknown("preset", source, PRESETS)
    return PRESETS[source]


def _rate(source: Workload | Synthetic) -> float:
    return source.rate if isinstance(source, Workload) else source.arrivals.rate


def _objectives(objective: Objective | str, slo: Slo | None) -> tuple[Objective, ...]:
    return (objective,) if isinstance(objective, Objective) else parse_objectives([objective], slo)
