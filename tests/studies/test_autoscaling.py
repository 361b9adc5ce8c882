"""The study of scaling rules: its traffic, what it counts and prints from rows made by hand, and a small run."""

from dataclasses import replace

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.runs.scaling import HeldLoad
from fluidgate.runs.size.trials import Outcome
from fluidgate.studies.scaling import MACHINES, run_scaling, scaling_page, study
from fluidgate.studies.scaling.page import is_kept
from fluidgate.studies.scaling.study import METRICS, RULES, Row, ScalingResult, ScalingRun
from fluidgate.studies.scaling.traffic import SHAPES, Shape, shaped
from fluidgate.workload import PRESETS, Cox

HELD = HeldLoad(0.5, 2.0, 5.0, Outcome(True, "p99:ttft:2000", (-0.01,), (900.0,), 4, {}))
"""One request per second and replica."""


def row(rule: str, late: list[float], offered: list[float], hours: float) -> Row:
    values = {name: np.zeros(len(late)) for name in METRICS}
    values |= {"late_share": np.array(late), "offered": np.array(offered), "replica_hours": np.full(len(late), hours)}
    return Row("h100", "ramp", rule, values, np.ones(3))


def test_the_promise_is_over_all_seeds_together() -> None:
    assert is_kept(row("kv", [0.0, 0.018], [100, 100], 1.0))
    assert not is_kept(row("kv", [0.0, 0.018], [100, 200], 1.0))


def test_the_page_says_what_each_rule_lost_and_cost() -> None:
    rows = tuple(row(rule, [0.002, 0.05], [100, 100], 8.0 if rule == "fixed" else 6.0) for rule in RULES)
    page = scaling_page(ScalingResult(rows, {"h100": HELD}, 2), "fluidgate experiment scaling")
    assert "| boundary | 2.60% | 0.00% | 6.00 | 0.75 | 0.0 | 0.0 | – |" in page
    assert "| fixed | 0 of 1 | 0.00% | 1.00 to 1.00 |" in page
    assert "h100-80gb: 1 req/s, 50% of the boundary of 2 req/s" in page
    assert MACHINES["a100"] not in page


def test_traffic_follows_its_shape() -> None:
    """Within four standard deviations of a Poisson process, in every five minutes of an even source."""
    source = replace(PRESETS["azure-conv-2023"], arrivals=Cox(1.0, 0.0, 1.0, 0.0, 1.0))
    shape = Shape((0, 10, 20), (1, 1, 5))
    load = shaped(source, shape, 20.0, 3)
    counts, _ = np.histogram(load.arrival_s, [0, 300, 600, 900, 1200])
    expected = np.array([6000, 6000, 12000, 24000])
    assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()
    assert np.array_equal(load.arrival_s, shaped(source, shape, 20.0, 3).arrival_s)


def test_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads far below what the machine holds: the fixed fleet loses nothing, and ours does not either, for less."""
    monkeypatch.setattr(study, "held", lambda name: HELD)
    study.traffic.cache_clear()
    result = run_scaling(["a100"], seeds=2, shapes=["ramp"])
    study.traffic.cache_clear()
    assert [found.rule for found in result.rows] == list(RULES)
    boundary, fixed = (result.row("a100", "ramp", rule) for rule in ("boundary", "fixed"))
    assert fixed.mean("starts") == 0
    assert fixed.mean("replica_hours") == pytest.approx(5 * SHAPES["ramp"].duration_s / 3600, rel=0.01)
    assert boundary.mean("replica_hours") < fixed.mean("replica_hours")
    assert boundary.mean("most") >= 5
    assert is_kept(boundary)
    assert is_kept(fixed)


def test_a_client_that_gives_up_is_late_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One replica at twice its boundary: some are served late, and some leave before."""
    monkeypatch.setattr(study, "held", lambda name: replace(HELD, boundary_rate=40.0))
    monkeypatch.setitem(SHAPES, "steady", Shape((0, 5), (1, 1)))
    study.traffic.cache_clear()
    found = study.simulated(ScalingRun("a100", "steady", "fixed", 0))
    study.traffic.cache_clear()
    assert 0.1 < found["lost_share"] < found["late_share"] < 1.0


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(InputError, match=f"unknown part 'cpu'. Known: {', '.join(MACHINES)}"):
        run_scaling(["cpu"], seeds=2)
