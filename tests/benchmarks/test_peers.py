"""The comparison with other simulators: a peer's answer counts only if it is whole."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fluidgate.workload import Workload

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WORKLOAD = Workload(np.array([0.0, 1.0]), np.array([10, 20]), np.array([3, 4]))
GOOD = {"version": "1.0", "wall_s": 2.0, "cpu_s": 1.5, "finished": 2, "output_tokens": 7, "makespan_s": 9.0}


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return import_module("peers")


def test_the_last_line_is_the_answer(peers: ModuleType) -> None:
    replay = peers.parse_answer("a peer", f"loading\n{json.dumps(GOOD)}\n", WORKLOAD)
    assert (replay.version, replay.wall_s, replay.cpu_s, replay.makespan_s) == ("1.0", 2.0, 1.5, 9.0)


@pytest.mark.parametrize(
    "stdout",
    ["", "Traceback", "[]", "null", "3", f"{json.dumps(GOOD)}\ndone", json.dumps(GOOD)[:-1]],
    ids=["nothing", "no JSON", "a list", "null", "a number", "a line after it", "cut short"],
)
def test_what_is_no_answer_fails(peers: ModuleType, stdout: str) -> None:
    with pytest.raises(peers.BadAnswerError, match="a peer: not the answer of a driver"):
        peers.parse_answer("a peer", stdout, WORKLOAD)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_an_answer_without_a_field_fails(peers: ModuleType, missing: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(peers.BadAnswerError, match=missing):
        peers.parse_answer("a peer", json.dumps(rest), WORKLOAD)


@pytest.mark.parametrize("key", ["wall_s", "cpu_s", "makespan_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), None, "soon"])
def test_a_time_that_is_none_fails(peers: ModuleType, key: str, value: Any) -> None:
    with pytest.raises(peers.BadAnswerError, match="a peer: "):
        peers.parse_answer("a peer", json.dumps(GOOD | {key: value}), WORKLOAD)


@pytest.mark.parametrize(("key", "value"), [("finished", 1), ("finished", 3), ("output_tokens", 6)])
def test_a_replay_of_other_requests_fails(peers: ModuleType, key: str, value: int) -> None:
    with pytest.raises(peers.BadAnswerError, match="of 2 with 7"):
        peers.parse_answer("a peer", json.dumps(GOOD | {key: value}), WORKLOAD)


def driver(peers: ModuleType, folder: Path, source: str) -> Any:
    """A peer whose driver is this source."""
    path = folder / "driver.py"
    path.write_text(source)
    return peers.Peer("a peer", Path(sys.executable), path, folder)


def test_a_driver_gets_the_requests(peers: ModuleType, tmp_path: Path) -> None:
    """Its answer is made from what it reads, so that a trace cut short or misread would fail."""
    source = f"""
import json, pathlib, sys
rows = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]
json.loads(sys.argv[2])["seats"]
own = dict(finished=len(rows), output_tokens=sum(row["output_length"] for row in rows))
print(json.dumps({GOOD!r} | own))
"""
    trace = tmp_path / "requests.jsonl"
    peers.write_mooncake(WORKLOAD, trace)
    assert peers.peers_replay(driver(peers, tmp_path, source), trace, WORKLOAD).cpu_s == 1.5


def test_a_driver_that_dies_fails_with_what_it_said(peers: ModuleType, tmp_path: Path) -> None:
    peer = driver(peers, tmp_path, f"print('''{json.dumps(GOOD)}'''); raise SystemExit('no such GPU')")
    with pytest.raises(peers.BadAnswerError, match=r"status 1(?s:.*)no such GPU"):
        peers.peers_replay(peer, tmp_path / "requests.jsonl", WORKLOAD)


def test_a_missing_environment_is_named(peers: ModuleType, tmp_path: Path) -> None:
    peer = peers.Peer("a peer", tmp_path / "no-python", tmp_path / "driver.py")
    with pytest.raises(peers.BadAnswerError, match="make bench-peers"):
        peers.peers_replay(peer, tmp_path / "requests.jsonl", WORKLOAD)
