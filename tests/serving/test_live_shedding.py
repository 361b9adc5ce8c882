"""The gate gives requests up inside vLLM's scheduler: clients are told, the books stay vLLM's, and nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fluidgate.policies import Codel, Fluid, Policy, QueueCap
from fluidgate.serving import publisher
from fluidgate.serving.gate_state import FOLDER_VARIABLE, RECENT_SHEDS, GateState, StateReader

from .live import MAX_STEPS, STEP_S, Live, needs_vllm, new_live, run_down

pytestmark = needs_vllm

SHEDDING = [
    QueueCap(2.0),
    Codel(0.2, 0.5),
    Fluid(timeout_s=2.0),
    Fluid(ttft_timeout_s=0.5, drop_residents=True, timeout_s=3.0),
    Fluid(announced=True),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


def told(live: Live) -> dict[str, str]:
    """How requests ended without a token in that step, as vLLM's clients learn it; the last batch in flight lands."""
    from fluidgate.serving.vllm_core import runner_output

    output, emitting = live.in_flight.popleft()
    names = list(output.num_scheduled_tokens)
    sampled = [[0] if name in emitting else [] for name in names]
    outputs = live.scheduler.update_from_output(output, runner_output(names, sampled))
    ended = [one for client in outputs.values() for one in client.outputs if one.finish_reason is not None]
    for one in ended:
        live.unfinished.pop(one.request_id, None)
    return {one.request_id: str(one.finish_reason) for one in ended if not one.new_token_ids}


@pytest.mark.parametrize("policy", SHEDDING, ids=[str(k) for k in range(len(SHEDDING))])
@pytest.mark.parametrize("depth", [1, 2])
def test_each_request_ends_once_and_the_books_are_vllms(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, depth: int
) -> None:
    random = Random(depth)
    live = new_live(monkeypatch, policy, blocks=20, seats=4, depth=depth)
    ends: dict[str, str] = {}
    names: list[str] = []
    for _ in range(MAX_STEPS):
        if len(names) < 150 and random.random() < 0.5:
            extra = {"fluidgate_timeout": random.choice([0.5, 3.0])}
            names.append(live.add(random.randint(1, 60), random.randint(1, 60), extra=extra).request_id)
        if live.scheduler.has_requests():
            live.form()
            live.assert_books_are_vllms()
        if live.in_flight and (len(live.in_flight) == depth or not live.scheduler.has_requests()):
            for name, reason in told(live).items():
                assert name not in ends, f"{name} ends twice"
                ends[name] = reason
        if len(names) == 150 and not live.scheduler.has_requests() and not live.in_flight:
            break
    assert live.gate.totals.shed == len(ends) > 5
    assert set(ends.values()) == {"abort"}
    assert not live.unfinished
    assert live.rebuilds() == 0


def test_api_servers_learn_what_was_given_up_before_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    live = new_live(monkeypatch, QueueCap(1.0), seats=1)
    for _ in range(5):
        live.add(16, 20)
    live.form()
    state = _read(folder)
    assert state.shed == 3
    shed = [entry["request_id"] for entry in state.recent_sheds]
    assert sorted(told(live)) == sorted(shed)


def test_no_clock_of_the_wall_decides(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """It jumps by a day, forwards and backwards, each time that the gate looks at it."""
    ends = []
    for jumps_s in ((0.0,), (86_400.0, -172_800.0)):
        wall = itertools.accumulate(itertools.cycle(jumps_s), initial=1.8e9)
        monkeypatch.setattr(publisher.time, "time", lambda wall=wall: next(wall))
        live, reader = new_live(monkeypatch, Fluid(timeout_s=2.0, output_quantiles=(20.0,)), seats=2), StateReader()
        told_of = []
        for k in range(400):
            if k % 4 == 0:
                live.add(16, 20)
            live.form()
            told_of.append(sorted(told(live)))
            state = reader.read(live.clock.now_s)
            assert state is not None
        ends.append((told_of, state.waiting, state.shed))
    assert ends[0] == ends[1]
    assert ends[0][2] > 10


def test_hundreds_that_are_given_up_at_once_are_all_told_whatever_they_are_called(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    live = new_live(monkeypatch, QueueCap(0.0), seats=1)
    for k in range(700):
        live.add(16, 20, name="x" * 100_000 if k == 300 else "\u0001" * 300 if k == 301 else None)
    live.form()
    state = _read(folder)
    names = {entry["request_id"] for entry in state.recent_sheds}
    assert state.shed == 699
    assert names == {name for name in told(live) if len(name) <= 300}
    assert len(names) == 698
    live.clock.now_s += 10.0
    for _ in range(3):
        live.add(16, 20)
    live.form()
    assert len(_read(folder).recent_sheds) == RECENT_SHEDS + 3


def test_the_state_says_how_fast_the_queue_moves(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """One seat, 20 tokens each: a start every 21 iterations; as many come as make the queue grow."""
    live = new_live(monkeypatch, Fluid(timeout_s=1e6), seats=1)
    for k in range(1500):
        if k % 15 == 0:
            live.add(16, 20)
        live.form()
        live.receive()
    state = _read(folder)
    assert state.starts_per_s == pytest.approx(1 / (21 * STEP_S), rel=0.1)
    assert state.arrivals_per_s == pytest.approx(1 / (15 * STEP_S), rel=0.1)
    assert state.running == 1
    assert state.waiting == pytest.approx(live.books.num_waiting, abs=2)  # up to a quarter of a second old
    assert state.latest_start_s[""] == pytest.approx(1e6, rel=0.02)
    run_down(live)
    live.form()  # vLLM's engine asks once more after the last request has ended
    assert _read(folder).is_idle


def _read(folder: Path) -> GateState:
    state = StateReader(folder=folder).read(0.0)
    assert state is not None
    return state


def test_what_a_client_announces_in_vain_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, Fluid(announced=True))
    for value in (-1, 0, float("nan"), float("inf"), 1e300, "60", True, [1], None):
        live.add(8, 4, extra={"fluidgate_timeout": value, "fluidgate_ttft_timeout": value})
    run_down(live)
    assert live.gate.totals.shed == 0
    assert len(live.finished) == 9
