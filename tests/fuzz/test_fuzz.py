"""Every reader of what a user gives takes a damaged input or refuses it in one line: no traceback, hang or warning."""

import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import FORMATS

from . import campaign as campaigns
from .campaign import SEED, Reader, campaign
from .readers import READERS, warm


def test_every_format_is_fuzzed_and_enough() -> None:
    assert set(FORMATS) <= {reader.name.split(".")[0] for reader in READERS}
    assert sum(reader.examples for reader in READERS) >= 20_000


@pytest.fixture(scope="module")
def compiled() -> None:
    """What inputs are timed with, loaded."""
    warm()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.split(".")[0])
def test_reader(reader: Reader, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs, accepted = campaign(reader, tmp_path)
    with capfd.disabled():
        print(f"\nfuzz {reader.name}: {inputs:,} inputs, {accepted:,} taken, seed {SEED}", file=sys.stderr)
    assert inputs == 1 or accepted >= reader.accepted * inputs, "too few inputs get past the first check"


def _overflow(_path: Path, _rng: Random) -> None:
    np.float64(1e300) * np.float64(1e300)


def _warning(_path: Path, _rng: Random) -> None:
    warnings.warn("odd", UserWarning, stacklevel=1)


def _hang(_path: Path, _rng: Random) -> None:
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except Exception:  # as careless code would
            continue


def _glutton(_path: Path, _rng: Random) -> None:
    bytearray(2 * campaigns.MEMORY_BYTES)


def _coloured(_path: Path, _rng: Random) -> None:
    error = InputError("")
    error.args = ("two\nlines, \x1b[31mred",)
    raise error


def _digits(path: Path, _rng: Random) -> None:
    int(path.read_bytes()[:20])


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        (_overflow, "RuntimeWarning: overflow"),
        (_warning, "UserWarning: odd"),
        (_hang, "Hang: more than 1 s"),
        (_glutton, "MemoryError"),
        (_coloured, "is not one line for a terminal"),
        (_digits, "ValueError: invalid literal"),
    ],
)
def test_faults_are_found_and_repeated(
    use: Callable[[Path, Random], None], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaigns, "TIME_S", 1.0)
    calls: list[bytes] = []

    def after_the_seeds(path: Path, rng: Random) -> None:
        calls.append(path.read_bytes())
        if len(calls) > 1:
            use(path, rng)

    with pytest.raises(AssertionError, match=re.escape(fault)) as found:
        campaign(Reader("planted.txt", lambda: ["1234"], after_the_seeds, examples=200), tmp_path)
    again: Any = re.search(r"FLUIDGATE_FUZZ_SEED=(\d+) FLUIDGATE_FUZZ_ONLY=(\d+)", str(found.value))
    assert int(again[1]) == SEED
    monkeypatch.setattr(campaigns, "ONLY", again[2])
    first = calls[-1]
    calls.clear()
    with pytest.raises(AssertionError, match=re.escape(fault)):
        campaign(Reader("planted.txt", lambda: ["1234"], after_the_seeds, examples=200), tmp_path)
    assert calls[-1] == first
