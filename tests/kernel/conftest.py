"""A cache of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .kernels import KERNELS, start_anew


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The named folder of a user who starts fluidgate for the first time; it is not there yet."""
    root = tmp_path / "cache"
    monkeypatch.setenv("FLUIDGATE_CACHE_DIR", str(root))
    (tmp_path / "small_kernels.py").write_text(KERNELS)
    start_anew()
    yield root
    start_anew()
