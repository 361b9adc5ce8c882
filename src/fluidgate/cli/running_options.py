"""Where runs happen: several replicas, several processes, and the file that keeps finished ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fluidgate.bounds import MAX_JOBS
from fluidgate.cli import names
from fluidgate.cli.groups import changed, option
from fluidgate.cli.terminal import progress_bar
from fluidgate.errors import InputError, unknown

if TYPE_CHECKING:
    from fluidgate.engine import Fleet, Outside
    from fluidgate.runs import Runner

_F, _R = "Replicas", "Running"

GATES = ("inside", "outside")


@dataclass(frozen=True)
class FleetOptions:
    """Several engines behind a router or a gate; `fluidgate.engine.Fleet` with the workload's seed."""

    replicas: Annotated[
        int, option(_F, "--replicas", help="Engines that serve the requests, each with its policy.")
    ] = 1
    router: Annotated[
        str,
        option(
            _F,
            "--router",
            help="Router: round-robin, least-loaded, least-kv, power-of-two, by-class or gcd-mixing.",
            autocompletion=names.completed(names.routers),
        ),
    ] = "round-robin"
    gate: Annotated[
        str,
        option(
            _F,
            "--gate",
            help="Where policy fluid decides: inside of every engine, or outside, before stock engines.",
            autocompletion=names.completed(lambda: GATES),
        ),
    ] = "inside"
    gauge_age: Annotated[
        float,
        option(_F, "--gauge-age", help="How old gauges are when a gate outside gets them, seconds.", min=0),
    ] = 5.0
    gates: Annotated[int, option(_F, "--gates", help="Gates outside; requests come to them in turn.", min=1)] = 1

    def load(self, seed: int) -> Fleet:
        """The fleet; `seed` is for a router that draws at random."""
        from fluidgate.engine import Fleet

        fleet = Fleet(self.replicas, self.router, seed, self._outside())
        if fleet.replicas == 1 and "router" in changed(self):
            raise InputError("--router without --replicas would change nothing: add it, or leave --router out")
        return fleet

    def _outside(self) -> Outside | None:
        from fluidgate.engine import Outside

        if self.gate not in GATES:
            raise unknown("place of a gate", self.gate, GATES)
        if self.gate == "outside":
            return Outside(self.replicas, self.gates, self.gauge_age)
        given = [name for field, name in changed(self).items() if field in ("gauge_age", "gates")]
        if given:
            raise InputError(f"{given[0]} without --gate outside would change nothing: add it, or leave {given[0]} out")
        return None


@dataclass(frozen=True)
class RunningOptions:
    """Where many runs happen; `fluidgate.runs.Runner`."""

    jobs: Annotated[
        int, option(_R, "--jobs", "-j", help="Number of processes; results are the same.", min=1, max=MAX_JOBS)
    ] = 1
    ray: Annotated[str | None, option(_R, "--ray", help="Run on Ray: a cluster's address, or `local`.")] = None
    results: Annotated[
        Path | None, option(_R, "--results", help="Keep finished runs in this file, and resume from it.")
    ] = None

    @contextmanager
    def runner(self, what: str) -> Iterator[Runner]:
        """The runner, with a progress bar."""
        from fluidgate.runs import Runner

        with progress_bar(what) as progress:
            try:
                yield Runner(self.jobs, self.ray, self.results, progress)
            except KeyboardInterrupt as interrupt:
                if self.results is None:
                    interrupt.add_note("nothing is kept: with --results FILE the same command continues where it was")
                raise
