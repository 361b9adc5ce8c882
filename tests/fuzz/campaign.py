"""One reader under a stream of damaged inputs: it takes each or refuses it in one line, in time, without a warning."""

import os
import resource
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from fluidgate.errors import LONGEST, CalibrationWarning, FluidgateError
from fluidgate.words import escaped

from .mutate import mutated

TIME_S = 20.0
"""Of one input: hundred times what the slowest takes on a busy machine."""
MEMORY_BYTES = 3 * 2**30
"""Beyond what the process holds already."""

SEED = int(os.environ.get("FLUIDGATE_FUZZ_SEED") or 1)
"""The same inputs in every run of `make test`; `make campaign` takes others each time."""
ONLY = os.environ.get("FLUIDGATE_FUZZ_ONLY")
"""The number of one input, to repeat that one alone."""


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        name: of the file too, its ending included.
        seeds: valid inputs.
        use: reads the file and goes on with what it holds, as the commands do.
        examples: inputs in a run.
        accepted: share of the inputs that must be taken, or the damage is too coarse to reach what lies behind.
    """

    name: str
    seeds: Callable[[], Sequence[str]]
    use: Callable[[Path, Random], None]
    examples: int = 700
    accepted: float = 0.12


class Hang(BaseException):
    """An input took too long. No handler of exceptions catches it."""


def campaign(reader: Reader, folder: Path) -> tuple[int, int]:
    """Run it: (inputs, accepted). Fails at the first input that is neither taken nor refused in one line."""
    path, seeds = folder / reader.name, reader.seeds()
    for seed in seeds:  # valid ones are taken; this loads what is compiled, too
        path.write_text(seed, encoding="utf-8")
        reader.use(path, Random(0))
    examples = int(os.environ.get("FLUIDGATE_FUZZ_EXAMPLES") or reader.examples)
    numbers = range(examples) if ONLY is None else [int(ONLY)]
    accepted = 0
    for number in numbers:
        rng = Random(f"{SEED} {reader.name} {number}")
        path.write_bytes(mutated(rng, seeds))
        fault = _fault(reader, path, rng)
        accepted += fault is None
        if fault:
            kept = folder / f"fault-{number}-{reader.name}"
            path.rename(kept)
            again = f"FLUIDGATE_FUZZ_SEED={SEED} FLUIDGATE_FUZZ_ONLY={number} python -m pytest tests/fuzz -k"
            raise AssertionError(f"{reader.name}: {fault}\ninput: {kept}\nagain: {again} {reader.name.split('.')[0]}")
    return len(numbers), accepted


def _fault(reader: Reader, path: Path, rng: Random) -> str | None:
    """What is wrong with how the input was met: None if it was taken, "" if it was refused as it should be."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limits[1]))
        signal.setitimer(signal.ITIMER_REAL, TIME_S)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", CalibrationWarning)
            reader.use(path, rng)
        return None
    except FluidgateError as error:
        message = str(error)
        well_said = "\n" not in message and message == escaped(message) and 0 < len(message) <= LONGEST
        return "" if well_said else f"the message is not one line for a terminal: {message!r:.2000}"
    except (Exception, Hang) as error:
        import traceback

        return "".join(traceback.format_exception(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"more than {TIME_S:g} s")
