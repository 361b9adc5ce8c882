"""A user's own helpers under `kernel`: compiled, interpreted, called from Python, and never stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fluidgate.engine import run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy, load_policy_file, policy_class, registry
from fluidgate.workload import Workload

from .kernels import run as run_small_kernels

HELPERS = """
import numpy as np

from constants import SEATS
from fluidgate.kernel import kernel


@kernel
def tail(values):
    return values[1:]


@kernel
def seats_left(view):
    kept = np.zeros(3)
    return max(0, SEATS + int(tail(kept).sum()) - len(view.residents))
"""
POLICY = """
import numpy as np

import fluidgate as fg
from fluidgate.kernel import kernel
from helpers import seats_left


@kernel
def quota(view):
    return seats_left(view)


@fg.policy("two-seats")
class TwoSeats(fg.Policy):
    @staticmethod
    def admit(params, memory, view, out_quota):
        out_quota[0] = quota(view)
        return np.inf
"""


@pytest.fixture
def two_seats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Policy]:
    """A policy whose helpers are in three files."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "constants.py").write_text("SEATS = 2\n")
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "two_seats.py").write_text(POLICY)
    load_policy_file(tmp_path / "two_seats.py")
    yield policy_class("two-seats")()
    for name in ("constants", "helpers", "fluidgate_policies_two_seats"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "interpreted"])
def test_helpers_run_with_their_policy(two_seats: Policy, compile: bool) -> None:
    # Five requests of 3 output tokens at once, a second for each iteration: two by two.
    load = Workload(np.zeros(5), np.ones(5, np.int64), np.full(5, 3))
    records = run(load, Hardware("roomy", StepTime(c0=1.0), 100), two_seats, compile=compile)
    assert records.first_scheduled_s.tolist() == [0.0, 0.0, 3.0, 3.0, 6.0]


SHARE = """
from fluidgate.kernel import kernel
from {module} import {name}

@kernel
def share(tokens):
    return {call}
"""
LIMITED = "from fluidgate.kernel import kernel\n\n@kernel\ndef limited(tokens):\n    return min(tokens, {limit})\n"


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (SHARE.format(module="inner", name="limited", call="limited(tokens)"), LIMITED),
        (SHARE.format(module="inner", name="LIMIT", call="min(tokens, LIMIT)"), "LIMIT = {limit}\n"),
    ],
    ids=["a helper in another file", "a constant in another file"],
)
def test_a_change_in_another_file_is_seen(tmp_path: Path, outer: str, inner: str) -> None:
    (tmp_path / "outer.py").write_text(outer)
    found = []
    for limit in (300, 200):
        (tmp_path / "inner.py").write_text(inner.format(limit=limit))
        found.append(said_by_python(tmp_path, "from outer import share; print(share(1000))"))
    assert found == ["300", "200"]


def said_by_python(folder: Path, code: str) -> str:
    environment = os.environ | {"FLUIDGATE_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_code_of_helpers_is_not_kept(root: Path, two_seats: Policy) -> None:
    run_small_kernels(root)
    kept = {path.name for path in root.rglob("*.nbc")}
    helper: Callable[..., int] = sys.modules["helpers"].tail
    assert helper(np.arange(3.0)).tolist() == [1.0, 2.0]
    assert {path.name for path in root.rglob("*.nbc")} == kept
    assert kept, "the package's own are"
