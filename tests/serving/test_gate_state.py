"""The channel from the engine to the API servers: what is damaged, old or of the dead is no state, and no error."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.serving.gate_state import RECENT_SHEDS, GateState, StateReader, StateWriter, state_folder

from .asgi_client import gate_state

SHEDS = [{"request_id": f"cmpl-{i}-0-0123abcd", "reason": "too late"} for i in range(RECENT_SHEDS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_what_is_written_is_read(folder: Path) -> None:
    state = gate_state(latest_start_s={"chat": 2.5, "batch": None}, shed=300, recent_sheds=SHEDS)
    StateWriter(0, folder, "t").write(state)
    assert StateReader(folder, "t").read(0.0) == state


def test_the_file_and_its_folder_are_for_this_user_alone(folder: Path) -> None:
    StateWriter(3, folder, "t").write(gate_state())
    assert [path.name for path in folder.iterdir()] == ["t.3.json"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "t.3.json").stat().st_mode & 0o777 == 0o600


def test_other_servers_on_the_machine_are_not_read(folder: Path) -> None:
    StateWriter(0, folder, "other").write(gate_state())
    assert StateReader(folder, "t").read(0.0) is None


def test_engines_add_up(folder: Path) -> None:
    for rank, latest in enumerate(({"chat": 2.0, "batch": None}, {"chat": 3.0, "batch": 4.0})):
        StateWriter(rank, folder, "t").write(gate_state(waiting=10 + rank, latest_start_s=latest, shed=rank))
    state = StateReader(folder, "t").read(0.0)
    assert state is not None
    assert (state.running, state.waiting, state.starts_per_s, state.arrivals_per_s) == (32, 21, 8.0, 12.0)
    assert (state.shed, state.latest_start_s) == (1, {"chat": 3.0, "batch": None})
    assert state.wait_s == pytest.approx(21 / 8)


def test_a_rate_that_one_engine_does_not_know_is_not_known(folder: Path) -> None:
    StateWriter(0, folder, "t").write(gate_state())
    StateWriter(1, folder, "t").write(gate_state(starts_per_s=0.0))
    state = StateReader(folder, "t").read(0.0)
    assert state is not None
    assert state.starts_per_s == 0
    assert state.wait_s is None


def test_it_is_read_at_most_every_50_ms_unless_it_must_be(folder: Path) -> None:
    writer, reader = StateWriter(0, folder, "t"), StateReader(folder, "t")
    writer.write(gate_state(waiting=1))
    first = reader.read(10.0)
    writer.write(gate_state(waiting=2))
    assert reader.read(10.04) is first
    second = reader.read(10.04, at_once=True)
    assert second is not None
    assert second.waiting == 2
    assert (reader.unchanged_until_s, reader.read(11.0)) == (10.0, second)


def test_a_busy_engine_that_writes_no_more_is_down_after_5_s(folder: Path) -> None:
    writer, reader = StateWriter(0, folder, "t"), StateReader(folder, "t")
    writer.write(gate_state())
    assert reader.read(100.0) is not None
    assert reader.read(104.9) is not None
    assert reader.read(105.1) is None
    assert "has not changed for 5 s" in reader.problem
    writer.write(gate_state())  # the same again is no progress
    assert reader.read(106.0) is None
    writer.write(gate_state(written_s=4000.0))  # a clock that was set back is
    assert reader.read(107.0) is not None


def test_an_idle_engine_need_not_write_as_long_as_it_lives(folder: Path) -> None:
    alive = {os.getpid()}
    reader = StateReader(folder, "t", is_alive=alive.__contains__)
    StateWriter(0, folder, "t").write(gate_state(running=0, waiting=0))
    assert reader.read(100.0) is not None
    assert reader.read(1e6) is not None
    alive.clear()
    assert reader.read(2e6) is None
    assert "no living engine" in reader.problem


def test_no_clock_of_the_wall_matters(folder: Path) -> None:
    writer, reader = StateWriter(0, folder, "t"), StateReader(folder, "t")
    for now_s, wall_s in enumerate((time.time(), 1.0, 8e9, 2.0, time.time())):
        writer.write(gate_state(written_s=wall_s))
        assert reader.read(float(now_s)) is not None


def test_kill_9_while_it_writes_leaves_the_last_state(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fluidgate.serving.gate_state import GateState, StateWriter\n"
        "writer, state = StateWriter(0, Path(sys.argv[1]), 't'), GateState('x', os.getpid(), 1., 1, 1, 1., 0., 1.)\n"
        "writer.write(state); print('ready', flush=True)\n"
        "while True: writer.write(state)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        time.sleep(0.05)
        engine.send_signal(signal.SIGKILL)
    assert StateReader(folder, "t", is_alive=lambda pid: True).read(0.0) is not None
    assert StateReader(folder, "t").read(0.0) is None  # it is dead
    StateWriter(0, folder, "t").write(gate_state())
    assert StateReader(folder, "t").read(0.0) == gate_state()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_file_is_an_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "state"
    writer, reader = StateWriter(0, folder, "t"), StateReader(folder, "t")
    writer.write(gate_state(recent_sheds=SHEDS[:2]))
    path = folder / "t.0.json"
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        facts = json.loads(whole)
        name = data.draw(st.sampled_from(sorted(facts)))
        odd = st.sampled_from([None, "x", [], {}, True, -1, 1e300, math.nan, math.inf, 10**400, 2**70, [{"a": 1}], 0.5])
        facts[name] = data.draw(odd)
        path.write_text(json.dumps(facts))
    else:
        path.write_bytes(
            data.draw(st.one_of(st.binary(max_size=200), st.just(whole[: data.draw(st.integers(0, 200))])))
        )
    state = reader.read(0.0)
    if state is None:
        assert str(path) in reader.problem or "no living engine" in reader.problem
        assert len(reader.problem) < 600
    else:
        assert all(map(math.isfinite, (state.written_s, state.starts_per_s, state.boundary_per_s)))
        assert min(state.running, state.waiting, state.shed) >= 0
        assert all(type(value) is int for value in (state.running, state.waiting, state.shed, state.pid))
    writer.write(gate_state())
    assert reader.read(1.0) == gate_state()


def test_what_is_no_file_is_no_state(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "t.0.json"
    os.mkfifo(path)
    assert StateReader(folder, "t").read(0.0) is None
    path.unlink()
    StateWriter(0, tmp_path / "elsewhere", "t").write(gate_state())
    path.symlink_to(tmp_path / "elsewhere" / "t.0.json")
    assert StateReader(folder, "t").read(0.0) is None
    path.unlink()
    path.write_bytes(b" " * (2**20 + 1))
    assert StateReader(folder, "t").read(0.0) is None


@pytest.mark.parametrize("how", ["others may write", "a link"])
def test_a_folder_of_others_is_refused(
    folder: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    if how == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    writer, reader = StateWriter(0, folder, "t"), StateReader(folder, "t")
    with caplog.at_level(logging.WARNING, "vllm.fluidgate"):
        writer.write(gate_state())
        writer.write(gate_state())
    assert len(caplog.records) == 1
    assert "FLUIDGATE_STATE_DIR" in caplog.text
    assert list(folder.iterdir()) == []
    assert reader.read(0.0) is None
    assert "FLUIDGATE_STATE_DIR" in reader.problem


def test_a_folder_that_another_user_owns_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateWriter(0, folder, "t").write(gate_state())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    reader = StateReader(folder, "t")
    assert reader.read(0.0) is None
    assert "must be a folder of this user" in reader.problem


def test_the_writer_never_raises_and_recovers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = StateWriter(0, folder, "t")
    writer.write(gate_state())
    os.rename(folder, folder.with_name("away"))
    folder.write_text("in the way")
    for _ in range(3):
        writer.write(gate_state())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    folder.unlink()
    writer.write(replace(gate_state(), waiting=7))
    state = StateReader(folder, "t").read(0.0)
    assert state is not None
    assert state.waiting == 7


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65, "ä"])
def test_names_that_are_none_are_refused(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("FLUIDGATE_STATE", name)
    reader = StateReader(folder)
    assert reader.read(0.0) is None
    assert "FLUIDGATE_STATE" in reader.problem


def test_the_folder_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLUIDGATE_STATE_DIR", str(tmp_path / "mine"))
    assert state_folder() == tmp_path / "mine"
    monkeypatch.delenv("FLUIDGATE_STATE_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_folder() == tmp_path / "fluidgate"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert state_folder().name == f"fluidgate-{os.geteuid()}"


def test_wait_is_the_queue_by_the_rate_of_starts() -> None:
    assert gate_state().wait_s == 30.0
    assert gate_state(waiting=0, starts_per_s=0.0).wait_s == 0.0
    assert gate_state(starts_per_s=0.0).wait_s is None
    assert isinstance(gate_state(), GateState)
