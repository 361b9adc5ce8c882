"""The load of a replica at which a promise holds."""

from dataclasses import replace

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.metrics import parse_objectives
from fluidgate.runs.scaling import held_load
from fluidgate.runs.scaling.held import LOADS
from fluidgate.runs.size import Certainty, Flags
from fluidgate.runs.size.trials import Replications, Trial

from .test_hourly import CHIP, DEMAND

CERTAINTY = Certainty(0.1, 8)


def test_it_holds_there_and_is_not_shown_to_hold_above() -> None:
    tight = replace(DEMAND, objectives=parse_objectives(["p90:ttft:120"], None))
    held = held_load(tight, CHIP, 2, certainty=CERTAINTY)
    assert held.outcome.holds
    assert held.residents == pytest.approx(held.replica_rate * held.outcome.figures["mean_e2el_ms"] / 1e3)
    assert held.load < LOADS[0]
    above = LOADS[LOADS.index(held.load) - 1]
    at = replace(tight, rate=above * held.boundary_rate * 2)
    trial = Trial(CHIP, Flags(), 2, replications=8)
    assert not Replications(trial, at, EngineConfig(), CERTAINTY.alpha).outcome().holds


def test_a_tighter_promise_holds_at_a_lower_load() -> None:
    loose, tight = (
        held_load(
            replace(DEMAND, objectives=parse_objectives([f"p90:ttft:{bound}"], None)), CHIP, 2, certainty=CERTAINTY
        )
        for bound in (2000, 120)
    )
    assert tight.load < loose.load


def test_a_promise_that_holds_nowhere() -> None:
    never = replace(DEMAND, objectives=parse_objectives(["p90:ttft:1"], None))
    with pytest.raises(InputError, match=r"2 replicas do not keep p90:ttft:1 at 30% of their boundary"):
        held_load(never, CHIP, 2, certainty=CERTAINTY)
