"""`fluidgate doctor` on several servers, and over time."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from ..doctor.pages import page
from .test_doctor import FLUIDGATE, doctor, good, served

BUSY = {"running": 61, "waiting": 38, "kv_use": 0.985, "preemptions": 41}


def test_a_page_of_two_pods_is_a_line_each_and_a_summary(tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text(page(replica="a", kv_use=0.52, running=30) + page(replica="b", kv_use=0.43, running=20))
    out = good(both)
    lines = [line.split() for line in out.splitlines()]
    assert ["pod=a", "30", "0", "52%", "-", "fine:", "nothing-wrong"] in lines
    assert ["pod=b", "20", "0", "43%", "-", "fine:", "nothing-wrong"] in lines
    assert "All together: 50 requests run, 0 wait, KV caches are 43% to 52% full." in out
    told = json.loads(good(both, "--format", "json"))
    assert told["kv_use_range"] == [0.43, 0.52]
    assert [replica["running"] for replica in told["replicas"]] == [30, 20]


def test_servers_that_differ_are_told_one_by_one(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.txt", "b.txt")]
    files[0].write_text(page(model="one"))
    files[1].write_text(page(model="two", **BUSY))
    out = good(*files)
    assert "They are looked at one by one, because their models differ." in out
    assert "vllm serve two" in out


def test_several_addresses_are_read_and_one_that_is_silent_is_named() -> None:
    with served((200, page(running=5))) as first, served((200, page(running=7))) as second:
        bare = first.removeprefix("http://")
        done = doctor(bare, second, "localhost:1")
    assert done.returncode == 1
    assert "All together: 12 requests run, 0 wait, KV caches are 30% full." in done.stdout
    assert "1 of 3 servers could not be read: localhost:1." in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_the_changes_end_in_a_line_that_can_be_run(tmp_path: Path) -> None:
    busy = tmp_path / "busy.txt"
    busy.write_text(page(model="org/model", **BUSY))
    out = good(busy, "--vllm-version", "0.33", "--max-num-seqs", 256)
    (line,) = [line for line in out.splitlines() if line.startswith("vllm serve")]
    words = shlex.split(line)
    assert words[2] == "org/model"
    assert words[words.index("--max-num-seqs") + 1] == "256"
    assert "one of each group is enough" in out
    assert "is no version" in doctor(busy, "--vllm-version", "new").stderr


def test_watching_prints_a_line_a_look_and_then_what_they_say() -> None:
    """`--wait-s` ends it; the page after the first is the last from then on."""
    many = 130
    later = page(finished=many, prompts=(100,) * many, outputs=(50,) * many, **BUSY)
    with served((200, page()), (200, later)) as url:
        out = good(url, "--watch", "0.1", "--wait-s", "0.6")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["time", "req/s", "tok/s", "running"]
    first, second = (line.split() for line in lines[1:3])
    assert first[1:] == ["-", "-", "8", "0", "30%", "-", "nothing"]
    assert second[3:] == ["61", "38", "98%", "41", "KV", "memory"]
    assert float(second[1].replace(",", "")) > 30
    assert "From the first third of" in out
    assert "KV memory binds" in out


def test_watching_as_json_is_a_line_a_look() -> None:
    with served((200, page())) as url:
        lines = good(url, "--watch", "0.1", "--wait-s", "0.3", "--format", "json").splitlines()
    looks = [json.loads(line) for line in lines]
    assert len(looks) >= 3
    assert all(look["running"] == 8 and look["limit"] == "nothing" for look in looks[:-1])
    assert looks[-1]["diagnosis"]["findings"]
    assert looks[-1]["trend"].startswith("From the first third of")


def test_ctrl_c_ends_watching_with_what_was_seen() -> None:
    with served((200, page(**BUSY))) as url:
        words = [FLUIDGATE, "doctor", url, "--watch", "0.2"]
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a test in the background inherits that it is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout is not None
            for _ in range(3):
                process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "stopped; what the looks say together" in told
    assert "KV memory binds" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([__file__, "--watch", "1"], "--watch looks at servers that run"),
        (["localhost:1", "localhost:1", "--watch", "1"], "an address is given twice"),
        (["localhost:1", "http://localhost:1"], "is given twice"),
        (["localhost:1", "--watch", "1"], "http://localhost:1/metrics: no answer"),
        ([__file__, __file__, "--second", __file__], "is given twice"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = doctor(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
