"""The table of ends: kept from one decision to the next, it says what a new one would."""

from dataclasses import dataclass

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.policies import AMin, KnownLengths
from fluidgate.policies.parts.lookahead import LookAhead, admissible
from fluidgate.testing import small_configs, small_hardware, small_workloads


@dataclass(frozen=True)
class Forgetful(LookAhead):
    """`a-min` with a new table for every decision; `known-lengths` without intervals."""

    lower_ends: tuple[float, ...] = ()

    name = "forgetful"
    rank = AMin.rank

    @staticmethod
    def admit(params, memory, view, out_quota):
        memory[0] = 0.0
        out_quota[0] = admissible(memory, view, params[2:])
        return np.inf


@dataclass(frozen=True)
class ForgetfulKnownLengths(Forgetful):
    """The same in order of arrival."""

    rank = None


PREFILL_FIRST = EngineConfig(mode="prefill-first", preemption="restart")


@pytest.mark.parametrize("config", [*small_configs(), PREFILL_FIRST], ids=lambda c: f"{c.mode} {c.preemption}")
@pytest.mark.parametrize("lower_ends", [(), (1.0,), (1.0, 6.0, 12.0)], ids=repr)
def test_a_kept_table_is_as_good_as_a_new_one(lower_ends: tuple[float, ...], config: EngineConfig) -> None:
    kept: LookAhead = AMin(lower_ends=lower_ends) if lower_ends else KnownLengths()
    new: LookAhead = Forgetful(lower_ends=lower_ends) if lower_ends else ForgetfulKnownLengths()
    for load in small_workloads():
        ours, theirs = (run(load, small_hardware(), policy, config, record="decisions") for policy in (kept, new))
        assert ours.steps is not None
        assert theirs.steps is not None
        assert ours.steps.batch.tolist() == theirs.steps.batch.tolist(), load.name
        assert ours.held_s.tolist() == theirs.held_s.tolist(), load.name
