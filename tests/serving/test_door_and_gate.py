"""The door and the gate agree: whom the middleware lets through, vLLM's scheduler under the gate starts in time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fluidgate.policies import Fluid
from fluidgate.serving.admission.decision import Judge
from fluidgate.serving.admission.headers import Asked
from fluidgate.serving.gate_state import FOLDER_VARIABLE, GateState, StateReader
from fluidgate.serving.labels import Classes

from .live import STEP_S, Live, needs_vllm, new_live

pytestmark = needs_vllm

SEATS, SHORTEST, LONGEST, LOAD = 4, 20, 40, 3.0
"""Output tokens, and arrivals as a multiple of what the seats can serve."""
WARM_S, MEASURED_S = 15.0, 45.0
PER_S = SEATS / (0.5 * (SHORTEST + LONGEST) * STEP_S)


@dataclass
class Served:
    """What became of the requests after the start: let through, given up by the gate, completed."""

    passed: int = 0
    shed: int = 0
    done: int = 0


def overload(live: Live, *, has_door: bool) -> Served:
    """Requests at random times, with or without a middleware before the gate."""
    random, judge, reader, served = Random(1), Judge({}), StateReader(), Served()
    start_s = next_s = live.clock.now_s
    state: GateState | None = None
    while live.clock.now_s < start_s + WARM_S + MEASURED_S:
        if live.clock.now_s < start_s + WARM_S:
            served = Served()
        now_s, before = live.clock.now_s, len(live.finished)
        while next_s <= now_s:
            next_s += random.expovariate(LOAD * PER_S)
            seen, state = state, reader.read(now_s)
            if state is not None and state is not seen:
                judge.update(state, reader.unchanged_until_s)
            name, lengths = str(live.num_seen), (random.randint(1, 60), random.randint(SHORTEST, LONGEST))
            decision = judge.decide(Asked(request_id=name, brings_id=True), state, now_s)
            if decision.passes or not has_door:
                live.add(*lengths, name=name)
                judge.entered(name, "default", now_s)
                served.passed += 1
            else:
                live.num_seen += 1
        step(live, judge, served)
        served.done += len(live.finished) - before
    return served


def step(live: Live, judge: Judge, served: Served) -> None:
    """One iteration of the engine, and what the middleware sees of it."""
    if not live.scheduler.has_requests():
        live.clock.now_s += STEP_S
        return
    live.form()
    for name, _ in live.scheduler.gatekeeper.shed:
        served.shed += 1
        live.unfinished.pop(name, None)
        judge.ended(name, "default", 0.0)
    unfinished = set(live.unfinished)
    live.receive()
    for request in live.scheduler.running:
        judge.answered(request.request_id)
    for name in unfinished - set(live.unfinished):
        judge.ended(name, "default", 0.0)


@pytest.mark.parametrize("timeout_s", [1.2, 3.0])
def test_hardly_any_that_the_door_lets_through_is_shed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, timeout_s: float
) -> None:
    lengths = tuple(np.linspace(SHORTEST, LONGEST, 16))
    runs = []
    for has_door in (False, True):
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / str(has_door)))
        policy = Fluid(timeout_s=timeout_s, prompt_tokens=(30.0,), output_quantiles=lengths)
        runs.append(overload(new_live(monkeypatch, policy, blocks=100, seats=SEATS), has_door=has_door))
    gate_alone, both = runs
    assert gate_alone.shed > 0.5 * gate_alone.passed
    assert both.shed <= 0.01 * both.passed
    assert both.done >= 0.97 * gate_alone.done


@pytest.mark.parametrize("behind", ["batch", "chat"])
def test_a_class_waits_for_the_whole_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, behind: str) -> None:
    """Behind 60 of the other class or of its own: they start in the order in which they came, as is predicted."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    even = tuple(np.linspace(SHORTEST, LONGEST, 16))
    policy = Fluid(timeout_s=1e4, shares=(0.5, 0.5), prompt_tokens=(30.0, 30.0), output_quantiles=even * 2)
    live = new_live(monkeypatch, policy, blocks=100, seats=SEATS, classes=Classes(("chat", "batch")))
    random, judge, reader = Random(2), Judge({}), StateReader()
    for _ in range(200):
        live.add(random.randint(1, 60), random.randint(SHORTEST, LONGEST), extra={"fluidgate_class": behind})
    while live.scheduler.gatekeeper.gate.books.num_waiting > 60:
        live.form()
        live.receive()
    state = reader.read(live.clock.now_s)
    assert state is not None
    came_s = live.clock.now_s
    forecast = judge.decide(Asked(class_name="chat"), state, came_s).forecast
    chat = live.add(30, 30, extra={"fluidgate_class": "chat"})
    while chat.num_computed_tokens == 0:
        live.form()
        live.receive()
    assert forecast is not None
    assert forecast.wait_s == pytest.approx(live.clock.now_s - came_s, rel=0.15)
