"""The cadence study: what it counts and prints, from rows made by hand, and one small run."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.studies.cadence import MACHINES, cadence_page, run_cadence
from fluidgate.studies.cadence.study import LOADS, METRICS, SWEPT, Row
from fluidgate.workload import PRESETS


def row(proposed: int, e2e: dict[int, float]) -> Row:
    """Mean E2E of 1 s, but for some intervals."""
    values = np.array([e2e.get(steps, 1000.0) for steps in SWEPT])
    return Row("affine", "lmsys", LOADS[0], 5.0, proposed, 0.1, dict.fromkeys(METRICS, values))


def test_within_two_percent_of_the_best() -> None:
    made = row(4, {1: 1500.0, 3: 900.0, 4: 918.0, 8: 919.0})
    assert made.best == 3
    assert [made.is_near(steps) for steps in (3, 4, 8, 1)] == [True, True, False, False]
    assert made.over(1, 3) == pytest.approx(5 / 3)


def test_the_page_counts_them() -> None:
    rows = [row(4, {4: 900.0}), row(1, {4: 900.0}), row(4, {4: 900.0, 8: 915.0})]
    page = cadence_page(rows, "fluidgate experiment cadence")
    counts = next(line for line in page.splitlines() if line.startswith(f"| affine | {LOADS[0]:g}"))
    assert counts == f"| affine | {LOADS[0]:g} | 2 | 0 | 3 | 1 | 1.111 | 1.000 | 1.111 |"
    assert "| lmsys | 5 | 4 | 4 | 1.000 | 1.111 | 1.000 | 1.111 | 10.0% / 10.0% | 0.900 | 0.900 |" in page


def test_an_affine_machine_gains_nothing_from_any_interval() -> None:
    rows = run_cadence(["affine"], requests=100, seeds=1)
    assert [(made.workload, made.load) for made in rows] == [(name, load) for load in LOADS for name in PRESETS]
    assert {made.proposed for made in rows} == {1}
    page = cadence_page(rows, "x")
    assert all(page.count(f"\n| {name} | ") == len(LOADS) for name in PRESETS)
    assert "experts" not in page


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(InputError, match=f"unknown part 'cpu'. Known: {', '.join(MACHINES)}"):
        run_cadence(["cpu"], requests=100, seeds=2)
