"""Three ways to carry out jobs: in this process, in worker processes, on a Ray cluster.

Each yields (index of the job, its result as JSON text) as jobs finish. JSON text is what a results file keeps, so
that a result is the same whether it was computed here, elsewhere or in an earlier run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from typing import Any

from fluidgate.code_cache import say, say_through
from fluidgate.errors import FluidgateError, JobFailed

Work = Callable[[Any], dict[str, Any]]
Finished = Generator[tuple[int, str], None, None]
Outcome = tuple[str, None] | tuple[None, Exception]

MAX_TRIES = 3
"""How often a job runs whose worker dies: a passing shortage of memory is survived, a deadly job ends."""


def in_this_process(work: Work, jobs: Sequence[Any]) -> Finished:
    """One job after the other."""
    for index, job in enumerate(jobs):
        yield index, json.dumps(work(job))


def in_processes(work: Work, jobs: Sequence[Any], workers: int) -> Finished:
    """In `workers` processes. A worker that dies is replaced, and its job runs again, `MAX_TRIES` times at most.

    Raises:
        JobFailed: workers cannot start, or die again and again at the same job.
    """
    payload = pickle.dumps(work)
    waiting = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    crew = {worker.pipe: worker for worker in (_Worker() for _ in range(min(workers, len(jobs))))}
    try:
        while crew:
            for pipe in wait(list(crew)):
                worker = crew[pipe]  # type: ignore[index]
                index = worker.index
                try:
                    outcome = worker.receive()
                except (EOFError, OSError):
                    del crew[worker.pipe]
                    waiting.appendleft(_retried(worker, jobs, deaths))
                    replacement = _Worker()
                    crew[replacement.pipe] = replacement
                    continue
                if isinstance(outcome, _Remark):
                    say(outcome.sentence, outcome.once)
                    continue
                if index is None:
                    worker.send(payload)
                if waiting:
                    following = waiting.popleft()
                    worker.give(following, jobs[following])
                else:
                    del crew[worker.pipe]
                    worker.stop()
                if outcome is not None and index is not None:
                    yield index, result_text(outcome)
    finally:
        for worker in crew.values():
            worker.stop()


@dataclass(frozen=True)
class _Remark:
    """What a worker has to say beside its outcomes; the driver says it, so that all workers together say it once."""

    sentence: str
    once: str


class _Worker:
    """A process and the pipe to it.

    Attributes:
        index: the job it has; None until it has said that it is up.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.index: int | None = None
        self.process = context.Process(target=_serve, args=(end,), daemon=True)
        self.process.start()
        end.close()  # else the pipe would stay open when the process dies

    def receive(self) -> Outcome | _Remark | None:
        """What it says: None when it is up, then the outcome of each job, and remarks before it."""
        return self.pipe.recv()  # type: ignore[no-any-return]

    def give(self, index: int, job: Any) -> None:
        """Let it run a job."""
        self.index = index
        self.send(pickle.dumps(job))

    def send(self, message: bytes) -> None:
        """Send it the work or a job."""
        with suppress(OSError):  # it is dead, which the next wait says
            self.pipe.send_bytes(message)

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """A worker's life: say that it is up, take the work, then jobs, until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the driver ends its workers
    threading.Thread(target=_end_with_driver, daemon=True).start()
    say_through(lambda sentence, once: pipe.send(_Remark(sentence, once)))
    try:
        pipe.send(None)
        load = cache(partial(pickle.loads, pipe.recv_bytes()))
        while True:
            pipe.send(attempt(load, pickle.loads(pipe.recv_bytes())))
    except (EOFError, OSError):
        return


def _end_with_driver() -> None:
    """A driver that is killed leaves no worker behind at a long job."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def attempt(load: Callable[[], Work], job: Any) -> Outcome:
    """The result as JSON text, or the exception, in a form that surely travels between processes."""
    try:
        return json.dumps(load()(job)), None
    except Exception as error:
        if not isinstance(error, FluidgateError):
            error.add_note(f"in a worker, at {job}:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return None, RuntimeError(f"at {job}: {''.join(traceback.format_exception(error))}")
        return None, error


def result_text(outcome: Outcome) -> str:
    """The result, or the exception raised again."""
    text, error = outcome
    if error is not None:
        raise error
    assert text is not None
    return text


def _retried(worker: _Worker, jobs: Sequence[Any], deaths: Counter[int]) -> int:
    """The job that a dead worker leaves behind, unless enough workers died at it."""
    worker.stop()
    code = worker.process.exitcode or 0
    end = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    index = worker.index
    if index is None:
        raise JobFailed(
            f"a worker process {end} before it could start; in a script, call this under "
            '`if __name__ == "__main__":`, since workers import the script, or use one worker'
        )
    deaths[index] += 1
    if deaths[index] == MAX_TRIES:
        raise JobFailed(
            f"{jobs[index]}: the worker process {end} in each of {MAX_TRIES} tries; if memory ran out, use fewer "
            "workers, or run this job alone with one worker to see why"
        )
    return index
