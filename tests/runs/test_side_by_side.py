"""Several workloads as one comparison: the numbers of each, with its name."""

from dataclasses import replace

import pytest

from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.runs import Comparison, compare, side_by_side

HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400)
POLICIES = ["greedy", "watermark"]


@pytest.fixture(scope="module")
def both() -> list[Comparison]:
    return [
        compare(preset, HARDWARE, POLICIES, requests=40, repeats=2, loads=[load])
        for preset, load in (("p512-d20", 0.5), ("p512-d20-d50-mix", 0.5))
    ]


def test_every_cell_is_there_under_the_name_of_its_workload(both: list[Comparison]) -> None:
    joined = side_by_side(both)
    assert [scenario.workload for scenario in joined.scenarios] == ["p512-d20", "p512-d20-d50-mix"]
    assert joined.workload_name == "p512-d20 and p512-d20-d50-mix"
    for scenario, alone in zip(joined.scenarios, both, strict=True):
        assert [cell.summaries for cell in joined.at(scenario)] == [cell.summaries for cell in alone.cells]


def test_what_is_not_alike_is_refused(both: list[Comparison]) -> None:
    with pytest.raises(InputError, match="their seed differ"):
        side_by_side([both[0], replace(both[1], seed=7)])
    with pytest.raises(InputError, match="their baseline and policies differ"):
        side_by_side([both[0], compare("p512-d20", HARDWARE, POLICIES[::-1], requests=40, repeats=2, loads=[0.5])])
    with pytest.raises(InputError, match="nothing to put side by side"):
        side_by_side([])
