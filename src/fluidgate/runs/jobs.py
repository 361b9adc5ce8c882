"""`Runner`: many independent jobs, in processes or on Ray, with a file from which a killed run continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fluidgate.errors import InputError
from fluidgate.jsonfile import plain
from fluidgate.runs import workers
from fluidgate.runs.result_shape import Shape
from fluidgate.runs.results_file import ResultsFile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

J = TypeVar("J", bound="DataclassInstance")


@dataclass(frozen=True)
class Runner:
    """Where jobs run, and where their results are kept; the numbers are the same bits wherever that is.

    Attributes:
        jobs: processes; 1 runs in this one. With Ray at "local", the CPUs to use (1: all of them).
        ray: "local" or a cluster's address, instead of processes.
        results: JSON-lines file of finished jobs; those it already holds are not run again.
        progress: called with (jobs done, jobs in all), first with what an earlier run left.
    """

    jobs: int = 1
    ray: str | None = None
    results: Path | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InputError(f"jobs = {self.jobs}: at least one process must run them")

    def run(
        self,
        work: Callable[[J], dict[str, Any]],
        jobs: Sequence[J],
        *,
        header: Mapping[str, Any] | None = None,
        shape: Shape | None = None,
    ) -> list[dict[str, Any]]:
        """Results in the order of `jobs`, whatever the order of completion.

        Args:
            work: a function of a module, or an instance of a module's class with `__call__` that carries what all jobs
                share; a worker process receives it once. Returns JSON-able values (a tuple comes back as a list, NaN
                and infinities as themselves). Must depend on the job alone.
            jobs: frozen dataclasses of JSON-able values. Equal jobs run once.
            header: what the results depend on beyond version and jobs, JSON-able; a file with another is refused.
            shape: of a result, see `Shape`; a job whose kept result has another runs again.

        Raises:
            InputError: a results file of something else or in use, Ray missing or out of reach, or what `work` raised.
            JobFailed: workers keep dying at the same job.
        """
        keys = [job_key(job) for job in jobs]
        with ExitStack() as stack:
            file = stack.enter_context(ResultsFile(self.results, header or {})) if self.results is not None else None
            by_key = dict(zip(keys, jobs, strict=True))
            done = file.results(by_key, shape) if file is not None else {}
            todo = [key for key in by_key if key not in done]
            if len(todo) < len(by_key):
                self._tell(len(by_key) - len(todo), len(by_key))
            finished = self._finished(work, [by_key[key] for key in todo])
            for index, text in stack.enter_context(closing(finished)):
                key = todo[index]
                done[key] = json.loads(text)
                if file is not None:
                    file.append(key, plain(by_key[key]), done[key])
                self._tell(len(done), len(by_key))
        return [done[key] for key in keys]

    def without_results(self) -> Runner:
        """The same runner without the results file."""
        return replace(self, results=None)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)

    def _finished(self, work: workers.Work, jobs: Sequence[Any]) -> workers.Finished:
        if self.ray is not None:
            from fluidgate.runs.on_ray import on_ray

            return on_ray(work, jobs, self.ray, self.jobs)
        if self.jobs == 1:
            return workers.in_this_process(work, jobs)
        return workers.in_processes(work, jobs, self.jobs)


def job_key(job: DataclassInstance) -> str:
    """Sixteen hexadecimal digits that identify a job by its fields."""
    text = json.dumps([type(job).__name__, plain(job)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
