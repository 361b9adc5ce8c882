"""Jobs on a Ray cluster (extra `[ray]`)."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

from fluidgate.errors import InputError, JobFailed
from fluidgate.runs.workers import MAX_TRIES, Finished, Outcome, Work, attempt, result_text
from fluidgate.version import version


def on_ray(work: Work, jobs: Sequence[Any], address: str, workers: int) -> Finished:
    """On the cluster at `address`, or on one of this machine's own at "local", with `workers` CPUs if more than 1.

    Raises:
        InputError: Ray is not installed, no cluster answers, or its nodes run another version of fluidgate.
        JobFailed: workers die again and again at the same job.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; run `pip install 'fluidgate[ray]'`, or use processes") from None
    if not jobs:
        return
    ours = not ray.is_initialized()
    if ours:
        _connect(address, workers)
    try:
        payload = ray.cloudpickle.dumps(work)
        shared = [ray.put(payload)]  # in a list, Ray hands the reference over and each worker fetches it once
        task = ray.remote(max_retries=MAX_TRIES - 1, scheduling_strategy="SPREAD")(_run_on_node)
        deaths = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
        digest = hashlib.sha256(payload).hexdigest()
        index_of = {task.remote(version(), digest, shared, job): index for index, job in enumerate(jobs)}
        try:
            while index_of:
                (reference,), _ = ray.wait(list(index_of), num_returns=1)
                index = index_of.pop(reference)
                try:
                    outcome = ray.get(reference)
                except deaths:
                    raise JobFailed(f"{jobs[index]}: its Ray worker died in each of {MAX_TRIES} tries") from None
                yield index, result_text(outcome)
        finally:
            for reference in index_of:
                ray.cancel(reference, force=True)
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str, workers: int) -> None:
    import ray

    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "num_cpus": workers if workers > 1 else None}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a simulation reports to no one
    try:
        _knock(address)
        ray.init(address, logging_level="WARNING", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`, or use `local`"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nothing listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


_work_of: dict[str, Work] = {}


def _run_on_node(drivers: str, digest: str, shared: list[Any], job: Any) -> Outcome:
    if drivers != version():
        return None, InputError(
            f"a Ray node runs fluidgate {version()} and the driver {drivers}; install the same version on all nodes"
        )
    return attempt(partial(_fetched, digest, shared), job)


def _fetched(digest: str, shared: list[Any]) -> Work:
    import ray

    if digest not in _work_of:
        _work_of[digest] = ray.cloudpickle.loads(ray.get(shared[0]))
    return _work_of[digest]
