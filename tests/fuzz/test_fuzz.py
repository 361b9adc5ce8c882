"""Every reader of what a user gives takes a damaged input or refuses it in one line: no traceback, hang or warning."""

import sys
from pathlib import Path

import pytest

from .campaign import SEED, Reader, campaign
from .readers import READERS, warm


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm()


def test_every_format_is_fuzzed() -> None:
    from fluidgate.workload import FORMATS

    assert set(FORMATS) <= {reader.name.split(".")[0] for reader in READERS}
    assert sum(reader.examples for reader in READERS) >= 20_000


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.split(".")[0])
def test_reader(reader: Reader, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs, accepted = campaign(reader, tmp_path)
    with capfd.disabled():
        print(f"\nfuzz {reader.name}: {inputs:,} inputs, {accepted:,} taken, seed {SEED}", file=sys.stderr)
    assert inputs == 1 or accepted >= reader.accepted * inputs, "too few inputs get past the first check"
