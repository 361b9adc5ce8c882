"""Several API servers of one server: one limit and one queue, the dead count no more, and what is refused is load."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fluidgate.serving.admission.doors import SECONDS_BETWEEN_SCANS, TURNED_AWAY, Doors, Rate
from fluidgate.serving.admission.headers import CLASS

from .asgi_client import Door, Vllm, door_to, settled


def two_doors(tmp_path: Path, app: Any, **limits: int) -> list[Door]:
    """Of one server, on one clock, which have seen each other."""
    doors = [door_to(app, tmp_path, **limits) for _ in range(2)]
    doors[1].admission._clock = doors[1].clock = doors[0].clock
    for _ in range(2):
        for door in doors:
            door.admission.look()
        doors[0].clock.now_s += SECONDS_BETWEEN_SCANS
    return doors


def report_of(door: Door) -> dict[str, Any]:
    """What it says of itself."""
    return dict(json.loads(asyncio.run(door.ask(path="/fluidgate/state", method="GET")).body))


def counting(folder: Path, *names: str) -> Doors:
    """The numbers of one more API server."""
    return Doors(names, lambda: (folder, "t"))


def test_a_limit_is_that_of_all_together(tmp_path: Path) -> None:
    doors = two_doors(tmp_path, app := Vllm(holds=True), batch=3)

    async def run() -> list[int]:
        asked = [asyncio.create_task(doors[k % 2].ask({CLASS: "batch"})) for k in range(6)]
        await settled()
        app.may_answer.set()
        statuses = [reply.status for reply in await asyncio.gather(*asked)]
        return [*statuses, (await doors[1].ask({CLASS: "batch"})).status]

    assert asyncio.run(run()) == [200, 200, 200, 429, 429, 429, 200]
    assert [report_of(door)["api_servers"] for door in doors] == [2, 2]


def test_a_burst_over_two_is_one_queue(tmp_path: Path) -> None:
    doors = two_doors(tmp_path, app := Vllm(holds=True))
    doors[0].tell(running=16, waiting=10)

    async def run() -> list[int]:
        asked = [asyncio.create_task(doors[k % 2].ask()) for k in range(6)]
        await settled()
        app.may_answer.set()
        return [int(reply.headers["x-fluidgate-position"]) for reply in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [10, 11, 12, 13, 14, 15]


def test_an_id_that_two_api_servers_have_is_told_apart(tmp_path: Path) -> None:
    doors = two_doors(tmp_path, app := Vllm(holds=True))
    doors[0].tell(waiting=0)

    async def run() -> list[int]:
        asked = [asyncio.create_task(door.ask({"X-Request-Id": "a"})) for door in doors]
        await settled()
        names = [dict(scope["headers"])[b"x-request-id"].decode() for scope in app.scopes]
        shed = {"request_id": f"cmpl-{names[0]}-0-0123abcd", "reason": "late"}
        doors[0].tell(waiting=1, recent_sheds=[shed])
        for door in doors:
            door.admission.look()
        await settled()
        app.may_answer.set()
        return [reply.status for reply in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [503, 200]


def test_what_is_refused_is_load(tmp_path: Path) -> None:
    """2 a second reach the engine, which can serve 5; 4 a second are refused, at one door and the other."""
    doors = two_doors(tmp_path, Vllm())
    for _ in range(600):
        doors[0].tell(arrivals_per_s=2.0, boundary_per_s=5.0)
        doors[0].clock.now_s += 0.25 - 0.06
        assert asyncio.run(doors[0].ask()).status == 429
        doors[1].clock.now_s += 0.25
        assert asyncio.run(doors[1].ask()).status == 429
    for door in doors:
        report = report_of(door)
        assert report["turned_away_per_s"] == pytest.approx(4.0, rel=0.02)
        assert report["load"] == pytest.approx((2.0 + 4.0) / 5.0, rel=0.02)
    doors[0].tell(running=0, waiting=0, arrivals_per_s=2.0, boundary_per_s=5.0)
    report_of(doors[0])
    doors[0].clock.now_s += 600.0
    assert report_of(doors[0])["load"] < 1e-6


def test_the_dead_count_no_more(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fluidgate.serving.admission.doors import Doors\n"
        "doors = Doors(['batch'], lambda: (Path(sys.argv[1]), 't')); doors.scan(0.0); doors.add('batch', 7)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    doors = counting(tmp_path / "state", "batch")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        doors.scan(0.0)
        doors.add("batch")
        assert (doors.total("batch"), doors.elsewhere("batch"), len(doors)) == (8, 7, 2)
        other.send_signal(signal.SIGKILL)
    doors.scan(2.0)
    assert (doors.total("batch"), len(doors)) == (1, 1)
    again = counting(tmp_path / "state", "batch")
    again.scan(0.0)
    assert (again.total("batch"), again.elsewhere("batch")) == (
        1,
        1,
    )  # it has the file of the dead, without its numbers
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_files_of_other_limits_are_let_alone_while_their_owner_lives(tmp_path: Path) -> None:
    first, second = counting(tmp_path / "state", "a"), counting(tmp_path / "state", "a", "b")
    for doors in (first, second):
        doors.scan(0.0)
    assert (len(first), len(second)) == (1, 1)
    third = counting(tmp_path / "state", "a")
    third.scan(0.0)
    first.scan(2.0)
    second.close()
    third.scan(2.0)
    fourth = counting(tmp_path / "state", "a")
    fourth.scan(0.0)
    assert fourth.elsewhere("a") == 0
    assert (len(third), len(fourth)) == (2, 3)


def test_files_that_were_removed_are_made_again_and_nothing_is_forgotten(tmp_path: Path) -> None:
    first, second = counting(tmp_path / "state", "a"), counting(tmp_path / "state", "a")
    for now_s in (0.0, 2.0):
        for doors in (first, second):
            doors.scan(now_s)
    first.add("a", 5)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    for now_s in (4.0, 6.0):
        for doors in (first, second):
            doors.scan(now_s)
    assert [doors.total("a") for doors in (first, second)] == [5, 5]


@pytest.mark.parametrize("how", ["others may write", "no folder"])
def test_where_nothing_can_be_shared_each_counts_alone(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    if how == "no folder":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    doors = counting(folder, "a")
    with caplog.at_level(logging.WARNING, "vllm.fluidgate"):
        for now_s in (0.0, 2.0, 4.0):
            doors.scan(now_s)
    doors.add("a")
    assert (doors.total("a"), len(doors)) == (1, 1)
    assert len(caplog.records) == 1
    assert "counts for itself" in caplog.text
    if how == "no folder":
        folder.unlink()
        doors.scan(6.0)
        assert os.listdir(folder) == ["t.door.0"]
        assert doors.total("a") == 1


def test_a_rate_is_of_the_recent_past_and_never_negative() -> None:
    rate = Rate()
    for k in range(400):
        rate.beat(float(k), 3 * k)
    assert rate.per_s == pytest.approx(3.0)
    rate.beat(400.0, 10)  # an API server is gone, with its part of the sum
    assert 0 < rate.per_s <= 3.0
    rate.beat(300.0, 20)  # no clock of ours does that
    for k in range(400, 1000):
        rate.beat(float(k), 20)
    assert rate.per_s < 1e-6


def test_numbers_of_its_own_need_no_file() -> None:
    doors = Doors(["a"])
    doors.scan(0.0)
    doors.add("a", 2)
    doors.put(TURNED_AWAY, 3)
    assert [doors.total("a"), doors.total(TURNED_AWAY), doors.elsewhere("a")] == [2, 3, 0]
