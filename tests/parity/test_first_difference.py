"""`first_difference` finds every planted difference, and shows it."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, StepRecords, run
from fluidgate.errors import InputError
from fluidgate.policies import Greedy
from fluidgate.serving import explain, first_difference

from .generators import Case

CASE = Case([(0, 20, 30), (0, 5, 30), (8, 3, 40), (8, 16, 2)], blocks=6, timeouts=[(9999, 0)] * 4)

NOT_COMPARED = {"workload", "hardware", "config", "policy", "steps"}
RECORDS = [field.name for field in fields(RunRecords) if field.name not in NOT_COMPARED]


@pytest.fixture(scope="module")
def records() -> RunRecords:
    made = run(CASE.workload, CASE.hardware, Greedy(), EngineConfig(), record="decisions")
    assert made.steps is not None
    assert made.preemptions.sum() > 1
    return made


def with_step(records: RunRecords, **changes: Any) -> RunRecords:
    assert records.steps is not None
    return replace(records, steps=replace(records.steps, **changes))


def changed(values: np.ndarray, i: Any, value: Any) -> np.ndarray:
    copy = values.copy()
    copy[i] = value
    return copy


def test_equal_runs_have_none(records: RunRecords) -> None:
    again = run(CASE.workload, CASE.hardware, Greedy(), EngineConfig(), record="decisions")
    assert first_difference(records, again) is None


@pytest.mark.parametrize("name", ["start_s", "end_s", "tokens", "running", "waiting", "free_blocks"])
def test_a_changed_column_is_found_at_its_step(records: RunRecords, name: str) -> None:
    column = getattr(records.steps, name)
    found = first_difference(records, with_step(records, **{name: changed(column, 7, column[7] + 1)}))
    assert str(found).startswith("step 7 differs in ")


@pytest.mark.parametrize("name", ["scheduled", "preempted"])
def test_counts_that_do_not_match_their_entries_are_refused(records: RunRecords, name: str) -> None:
    column = getattr(records.steps, name)
    with pytest.raises(InputError, match="no decisions"):
        first_difference(records, with_step(records, **{name: changed(column, 7, column[7] + 1)}))


def test_the_smallest_change_of_a_time_is_found(records: RunRecords) -> None:
    end_s = records.steps.end_s
    later = with_step(records, end_s=changed(end_s, 3, np.nextafter(end_s[3], np.inf)))
    assert str(first_difference(records, later)).startswith("step 3 differs in time\n")


def test_other_tokens_in_a_batch_are_shown_side_by_side(records: RunRecords) -> None:
    steps = records.steps
    at = int(steps.scheduled[:5].sum())
    row, tokens = steps.batch[at].tolist()
    found = first_difference(records, with_step(records, batch=changed(steps.batch, (at, 1), tokens + 7)))
    assert found is not None
    assert found.startswith("step 5 differs in batch\n")
    marked = [" ".join(line.split()) for line in found.splitlines() if line.endswith("<")]
    assert (row, tokens) == (0, 1)
    assert marked == ["scheduled request 0: 1 token request 0: 8 tokens <"]


def test_another_order_in_a_batch_is_found(records: RunRecords) -> None:
    steps = records.steps
    k = int(np.argmax(steps.scheduled > 1))
    at = int(steps.scheduled[:k].sum())
    swapped = changed(steps.batch, [at, at + 1], steps.batch[[at + 1, at]])
    assert str(first_difference(records, with_step(records, batch=swapped))).startswith(f"step {k} differs in batch\n")


def test_another_victim_is_found_at_its_step(records: RunRecords) -> None:
    steps = records.steps
    k = int(np.flatnonzero(steps.preempted)[-1])
    other = (steps.victims[-1] + 1) % len(records)
    found = first_difference(records, with_step(records, victims=changed(steps.victims, -1, other)))
    assert found is not None
    assert found.startswith(f"step {k} differs in preempted requests\n")
    assert f"request {other}" in found


@pytest.mark.parametrize("names", [("simulate", "emulate"), ("old", "new")])
def test_a_run_that_ends_early_is_found(records: RunRecords, names: tuple[str, str]) -> None:
    steps = records.steps
    last = len(steps) - 1
    cut = {field.name: getattr(steps, field.name)[:last] for field in fields(StepRecords)}
    cut["batch"] = steps.batch[: -int(steps.scheduled[last])]
    cut["victims"] = steps.victims[: steps.preempted[:last].sum()]
    shorter = with_step(records, **cut)
    one, other = names
    assert str(first_difference(records, shorter, names)).startswith(f"step {last}: {one} has it, {other} ended")
    assert str(first_difference(shorter, records, names)).startswith(f"step {last}: {other} has it, {one} ended")


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_compared(records: RunRecords, name: str) -> None:
    value = getattr(records, name)
    if np.ndim(value) == 0:
        other, where = (not value if isinstance(value, bool) else value + 1), name
    else:
        new = not value[-1] if value.dtype == bool else np.nan_to_num(value[-1]) + 1
        other, where = changed(value, -1, new), f"{name}["
    found = first_difference(records, replace(records, **{name: other}))
    assert found is not None
    assert found.startswith(where)
    assert " in simulate and " in found


def test_a_record_of_another_length_is_found(records: RunRecords) -> None:
    longer = replace(records, gap_counts=np.append(records.gap_counts, 1))
    n = len(records.gap_counts)
    assert first_difference(records, longer) == f"gap_counts has {n} values in simulate and {n + 1} in emulate"


def test_what_never_happened_equals_itself(records: RunRecords) -> None:
    never = replace(records, last_token_s=changed(records.last_token_s, 0, np.nan))
    assert first_difference(never, replace(never)) is None
    assert str(first_difference(records, never)).startswith("last_token_s[0] is ")


def test_long_equal_stretches_are_cut_short() -> None:
    crowd = Case([(0, 1, 3)] * 40, blocks=40)
    made = run(crowd.workload, crowd.hardware, Greedy(), EngineConfig(), record="decisions")
    tokens = made.steps.batch[-1, 1]
    found = first_difference(made, with_step(made, batch=changed(made.steps.batch, (-1, 1), tokens + 1)))
    assert found is not None
    assert "… 36 more the same" in found
    assert len(found.splitlines()) == 13


def test_explain_shows_a_step_that_is_equal(records: RunRecords) -> None:
    shown = explain(records, records, 0)
    assert shown.startswith("step 0 is equal\n")
    assert "<" not in shown


def test_what_cannot_be_compared_is_refused(records: RunRecords) -> None:
    with pytest.raises(InputError, match=f"no step {len(records.steps)}"):
        explain(records, records, len(records.steps))
    with pytest.raises(InputError, match='record="decisions"'):
        first_difference(records, replace(records, steps=None))
    with pytest.raises(InputError, match="different workloads"):
        first_difference(records, replace(records, workload=records.workload.scaled(2.0)))
