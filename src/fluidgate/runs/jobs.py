"""`run_jobs`: many independent jobs, in processes or on Ray, into a file from which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fluidgate.errors import InputError
from fluidgate.jsonfile import plain
from fluidgate.runs import workers as ways
from fluidgate.runs.result_shape import Shape
from fluidgate.runs.results_file import ResultsFile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

J = TypeVar("J", bound="DataclassInstance")


def run_jobs(
    work: Callable[[J], dict[str, Any]],
    jobs: Sequence[J],
    *,
    results: Path | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    header: Mapping[str, Any] | None = None,
    shape: Shape | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Results in the order of `jobs`: the same bits whatever the workers, the order of completion or a resume.

    Args:
        work: a function of a module, or an instance of a module's class with `__call__` that carries what all jobs
            share; a worker process receives it once. Returns JSON-able values (a tuple comes back as a list, NaN and
            infinities as themselves). Must depend on the job alone.
        jobs: frozen dataclasses of JSON-able values. Equal jobs run once.
        results: JSON-lines file of finished jobs; those it already holds are not run again.
        workers: processes; 1 runs in this one. With Ray at "local", the CPUs to use (1: all of them).
        ray_address: "local" or a cluster's address, instead of processes.
        header: what the results depend on beyond version and jobs, JSON-able; a file with another is refused.
        shape: of a result, see `Shape`; a job whose kept result has another runs again.
        progress: called with (jobs done, jobs in all), first with what an earlier run left.

    Raises:
        InputError: no workers, a results file of something else or in use, Ray missing or out of reach, or what `work`
            raised.
        JobFailed: workers die again and again at the same job.
    """
    if workers < 1:
        raise InputError(f"{workers} workers can do nothing; use at least 1")
    keys = [job_key(job) for job in jobs]
    with ExitStack() as stack:
        file = stack.enter_context(ResultsFile(results, header or {})) if results is not None else None
        wanted = dict(zip(keys, jobs, strict=True))
        done = file.results(wanted, shape) if file is not None else {}
        todo = [key for key in wanted if key not in done]
        left = len(todo)
        if progress is not None and left < len(wanted):
            progress(len(wanted) - left, len(wanted))
        finished = _finished(work, [wanted[key] for key in todo], workers, ray_address)
        for index, text in stack.enter_context(closing(finished)):
            key = todo[index]
            done[key] = json.loads(text)
            left -= 1
            if file is not None:
                file.append(key, plain(wanted[key]), done[key])
            if progress is not None:
                progress(len(wanted) - left, len(wanted))
    return [done[key] for key in keys]


def job_key(job: DataclassInstance) -> str:
    """Sixteen hexadecimal digits that identify a job by its fields."""
    text = json.dumps([type(job).__name__, plain(job)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(work: ways.Work, jobs: Sequence[Any], workers: int, ray_address: str | None) -> ways.Finished:
    if ray_address is not None:
        from fluidgate.runs.on_ray import on_ray

        return on_ray(work, jobs, ray_address, workers)
    if workers == 1:
        return ways.in_this_process(work, jobs)
    return ways.in_processes(work, jobs, workers)
