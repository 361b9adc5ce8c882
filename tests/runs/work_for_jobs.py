"""Work that the tests of jobs give to workers, which import it by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from fluidgate.code_cache import say
from fluidgate.errors import InputError


@dataclass(frozen=True)
class Draw:
    """A job: a seed to draw from, and a folder for marks, where a test wants them."""

    seed: int
    folder: str = ""


def draw(job: Draw) -> dict:
    """Numbers that show every lost bit, of which later jobs finish first."""
    import numpy as np

    values = np.random.default_rng(job.seed).random(5)
    time.sleep(0.02 * (job.seed % 3 == 0))
    return {"seed": job.seed, "values": values.tolist(), "mean": np.float64(values.mean()), "none": float("nan")}


def counted(job: Draw) -> dict:
    """Leaves a mark for every time it runs."""
    with Path(job.folder, f"ran-{job.seed}").open("a") as file:
        file.write("x")
    return draw(job)


def killed_once(job: Draw) -> dict:
    """Job 3's first run kills its own process."""
    mark = Path(job.folder, "killed")
    if job.seed == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(job)


def stuck_once(job: Draw) -> dict:
    """Job 2's first run never ends."""
    mark = Path(job.folder, "stuck")
    if job.seed == 2 and not mark.exists():
        mark.write_text(str(os.getpid()))
        while True:
            time.sleep(1)
    return counted(job)


def remarked(job: Draw) -> dict:
    """Says something of the code cache once another process is about to say it too."""
    Path(job.folder, f"says-{os.getpid()}").touch()
    while len(list(Path(job.folder).glob("says-*"))) < 2:
        time.sleep(0.01)
    say(f"worker {os.getpid()} found damaged code", once="load")
    return draw(job)


def always_killed(job: Draw) -> dict:
    """Job 3 kills every process it runs in."""
    if job.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(job)


def refused(job: Draw) -> dict:
    """Job 2 is bad input."""
    if job.seed == 2:
        raise InputError("seed 2 is not wanted; use another")
    return draw(job)


def broken(job: Draw) -> dict:
    """A fault in the work itself."""
    return {"ratio": 1 / (job.seed - 1)}


class Unpicklable(Exception):
    """An exception that does not travel between processes."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def unpicklable(job: Draw) -> dict:
    """Raises what cannot be sent back as it is."""
    raise Unpicklable(1, 2)


@dataclass(frozen=True)
class Shifted:
    """Work that carries what all jobs share."""

    by: float

    def __call__(self, job: Draw) -> dict:
        return {"value": job.seed + self.by}
