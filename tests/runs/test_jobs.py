"""Jobs: the same bits however they are run, and nothing lost to a kill."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fluidgate
from fluidgate import code_cache
from fluidgate.errors import InputError, JobFailed, ResultsWarning
from fluidgate.hardware import Hardware, StepTime
from fluidgate.runs import Runner, compare
from fluidgate.runs.jobs import job_key

HERE = Path(__file__).parent
HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (extra [ray])")


@pytest.fixture(autouse=True)
def _importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))


def jobs_in(folder: Path, n: int = 6) -> list:
    from work_for_jobs import Draw

    return [Draw(seed, str(folder)) for seed in range(n)]


def run_jobs(work: Callable, jobs: list, /, *, header: dict | None = None, **where: Any) -> list[dict[str, Any]]:
    return Runner(**where).run(work, jobs, header=header)


def runs_of(folder: Path) -> dict[int, int]:
    """How often each job ran."""
    return {int(mark.name.split("-")[1]): mark.stat().st_size for mark in folder.glob("ran-*")}


def as_text(rows: list) -> str:
    return json.dumps(rows)  # in which NaN equals NaN, and floats are told apart to the last bit


def test_results_come_in_the_order_of_jobs_with_every_bit() -> None:
    from work_for_jobs import Draw, draw

    jobs = [Draw(seed) for seed in (3, 1, 0, 2, 6, 5)]  # multiples of three finish late
    alone = run_jobs(draw, jobs)
    assert [row["seed"] for row in alone] == [3, 1, 0, 2, 6, 5]
    assert as_text(alone) == as_text([draw(job) for job in jobs])
    assert as_text(run_jobs(draw, jobs, jobs=2)) == as_text(alone)


def test_equal_jobs_run_once(tmp_path: Path) -> None:
    from work_for_jobs import counted

    first, second, *_ = jobs_in(tmp_path)
    rows = run_jobs(counted, [first, second, first])
    assert [row["seed"] for row in rows] == [0, 1, 0]
    assert runs_of(tmp_path) == {0: 1, 1: 1}


def test_keys_tell_jobs_apart_and_last() -> None:
    from work_for_jobs import Draw

    # sha256 of `["Draw", {"folder": "f", "seed": 1}]`: a results file of today is read tomorrow.
    assert job_key(Draw(1, "f")) == "fa055c76324d9502"
    assert len({job_key(Draw(seed)) for seed in range(100)}) == 100


def test_work_may_carry_what_jobs_share(tmp_path: Path) -> None:
    from work_for_jobs import Shifted

    rows = run_jobs(Shifted(0.5), jobs_in(tmp_path, 3), jobs=2)
    assert rows == [{"value": 0.5}, {"value": 1.5}, {"value": 2.5}]


def test_no_jobs_give_no_results(tmp_path: Path) -> None:
    from work_for_jobs import draw

    assert run_jobs(draw, [], jobs=2, results=tmp_path / "r.jsonl") == []


@pytest.mark.parametrize("torn_at", [1, 40, -1])
def test_a_torn_last_line_is_run_again(tmp_path: Path, torn_at: int) -> None:
    from work_for_jobs import counted

    file, jobs = tmp_path / "r.jsonl", jobs_in(tmp_path)
    rows = run_jobs(counted, jobs[:4], results=file, header={"seed": 1})
    whole = file.read_text()
    *kept, last = whole.splitlines(keepends=True)
    file.write_text("".join(kept) + last[:torn_at])
    told: list[tuple[int, int]] = []
    again = run_jobs(counted, jobs, results=file, header={"seed": 1}, progress=lambda *at: told.append(at))
    assert as_text(again[:4]) == as_text(rows)
    assert runs_of(tmp_path) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}
    assert told == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert file.read_text().startswith(whole)


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    from work_for_jobs import counted

    file = tmp_path / "r.jsonl"
    run_jobs(counted, [], results=file, header={"seed": 1})
    file.write_text(file.read_text()[:9])
    run_jobs(counted, jobs_in(tmp_path, 1), results=file, header={"seed": 1})
    header = json.loads(file.read_text().splitlines()[0])
    assert header.items() >= {"fluidgate": fluidgate.__version__, "seed": 1}.items()


def test_another_header_is_refused_with_what_differs(tmp_path: Path) -> None:
    from work_for_jobs import draw

    file, jobs = tmp_path / "r.jsonl", jobs_in(tmp_path, 1)
    nan = float("nan")
    run_jobs(draw, jobs, results=file, header={"seed": 1, "hardware": {"name": "h", "num_gpu_blocks": 4, "error": nan}})
    before = file.read_text()
    with pytest.raises(InputError, match=r"hardware\.num_gpu_blocks 4 there, 5 here\); name another") as refusal:
        run_jobs(
            draw, jobs, results=file, header={"seed": 1, "hardware": {"name": "h", "num_gpu_blocks": 5, "error": nan}}
        )
    assert "error" not in str(refusal.value)
    with pytest.raises(InputError, match=r"extra unset there, 2 here; source differs"):
        run_jobs(draw, jobs, results=file, header={"seed": 1, "extra": 2, "source": "s" * 90})
    assert file.read_text() == before


@pytest.mark.parametrize("content", ["notes\n", "no line end", '{"a": 1}\n', "[1]\n", b"\xff\xfe\n"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: str | bytes) -> None:
    from work_for_jobs import draw

    file = tmp_path / "precious.txt"
    raw = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(raw)
    with pytest.raises(InputError, match="is not a results file"):
        run_jobs(draw, jobs_in(tmp_path, 1), results=file)
    assert file.read_bytes() == raw


def test_a_broken_line_inside_is_named_and_runs_again(tmp_path: Path) -> None:
    from work_for_jobs import draw

    file, jobs = tmp_path / "r.jsonl", jobs_in(tmp_path, 2)
    run_jobs(draw, jobs, results=file)
    head, first, second = file.read_text().splitlines(keepends=True)
    file.write_text(head + first[:20] + "\n" + second)
    with pytest.warns(ResultsWarning, match=r"r\.jsonl:2: torn or altered"):
        assert as_text(run_jobs(draw, jobs, results=file)) == as_text([draw(job) for job in jobs])


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    from work_for_jobs import draw

    with pytest.raises(InputError, match=r"nowhere/r\.jsonl: cannot be written \(there is no folder"):
        run_jobs(draw, jobs_in(tmp_path, 1), results=tmp_path / "nowhere" / "r.jsonl")
    with pytest.raises(InputError, match="jobs = 0: at least one process"):
        run_jobs(draw, jobs_in(tmp_path, 1), jobs=0)


def test_a_killed_worker_costs_only_its_own_job(tmp_path: Path) -> None:
    from work_for_jobs import draw, killed_once

    jobs = jobs_in(tmp_path)
    rows = run_jobs(killed_once, jobs, jobs=2, results=tmp_path / "r.jsonl")
    assert (tmp_path / "killed").exists()
    assert as_text(rows) == as_text([draw(job) for job in jobs])
    assert runs_of(tmp_path) == dict.fromkeys(range(6), 1)


def test_what_every_worker_says_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from work_for_jobs import remarked

    monkeypatch.setattr(code_cache, "_SAID", set())
    run_jobs(remarked, jobs_in(tmp_path), jobs=2)
    assert re.fullmatch(r"fluidgate: worker \d+ found damaged code\n", capfd.readouterr().err)
    run_jobs(remarked, jobs_in(tmp_path), jobs=2)
    assert capfd.readouterr().err == "", "the driver has said it"


def test_a_job_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    from work_for_jobs import always_killed

    with pytest.raises(JobFailed, match=r"Draw\(seed=3, .*killed by signal 9 in each of 3 tries"):
        run_jobs(always_killed, jobs_in(tmp_path), jobs=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_work_raises_arrives(tmp_path: Path, workers: int) -> None:
    from work_for_jobs import broken, refused

    with pytest.raises(InputError, match=r"^seed 2 is not wanted; use another$"):
        run_jobs(refused, jobs_in(tmp_path), jobs=workers)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        run_jobs(broken, jobs_in(tmp_path), jobs=workers)


def test_a_fault_in_a_worker_says_where(tmp_path: Path) -> None:
    from work_for_jobs import broken, unpicklable

    with pytest.raises(ZeroDivisionError) as fault:
        run_jobs(broken, jobs_in(tmp_path), jobs=2)
    assert "work_for_jobs.py" in fault.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"Unpicklable: 1 and 2"):
        run_jobs(unpicklable, jobs_in(tmp_path, 1), jobs=2)


def is_running(pid: int) -> bool:
    """Not ended; a zombie, which nobody has reaped yet, has."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Sooner or later; after ten minutes it is a fault, not a busy machine."""
    for _ in range(30_000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("waited for ten minutes")


DRIVER = """
import signal
import sys
from pathlib import Path
from fluidgate.runs import Runner
from work_for_jobs import Draw, stuck_once

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background inherits that it is ignored
    folder = Path(sys.argv[1])
    jobs = [Draw(seed, str(folder)) for seed in range(6)]
    Runner(jobs=2, results=folder / "r.jsonl").run(stuck_once, jobs)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path, end: signal.Signals) -> None:
    from work_for_jobs import counted, draw

    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with (tmp_path / "stderr").open("w") as stderr:
        driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=stderr)
    file, stuck = tmp_path / "r.jsonl", tmp_path / "stuck"
    wait_until(lambda: file.exists() and file.read_text().count("\n") == 6)  # the header, and all but the stuck job
    wait_until(lambda: stuck.exists() and stuck.read_text() != "")  # whose worker may only now begin
    driver.send_signal(end)
    assert driver.wait(600) != 0
    worker = int(stuck.read_text())
    wait_until(lambda: not is_running(worker))  # the worker at the stuck job ends with its driver
    jobs = jobs_in(tmp_path)
    assert as_text(run_jobs(counted, jobs, results=file)) == as_text([draw(job) for job in jobs])
    assert runs_of(tmp_path) == dict.fromkeys(range(6), 1)


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "before it could start; in a script, call this under" in done.stderr


POLICY_FILE = """
import numpy as np
import fluidgate


@fluidgate.policy("one-at-a-time")
class OneAtATime(fluidgate.Policy):
    most: float = 1.0

    @staticmethod
    def admit(params, memory, view, out_quota):
        out_quota[0] = max(0, int(params[0]) - len(view.residents))
        return np.inf
"""


def test_compare_gives_the_same_numbers_over_processes_and_from_a_file(tmp_path: Path) -> None:
    def numbers(runner: Runner | None = None) -> str:
        result = compare(
            "three-types",
            HARDWARE,
            ["greedy", "wait"],
            loads=[0.9, 1.1],
            requests=150,
            repeats=2,
            seed=3,
            runner=runner,
        )
        return json.dumps(result.to_dict())

    alone = numbers()
    file = tmp_path / "runs.jsonl"
    assert numbers(Runner(2, results=file)) == alone
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 2 * 2
    file.write_text("".join(lines[:4]))
    told: list[tuple[int, int]] = []
    assert numbers(Runner(results=file, progress=lambda *at: told.append(at))) == alone
    assert told[0] == (3, 8)
    assert sorted(file.read_text().splitlines(keepends=True)) == sorted(lines)


def test_compare_refuses_a_file_of_other_settings(tmp_path: Path) -> None:
    def run(**other: object) -> None:
        compare(**{"source": "three-types", "hardware": HARDWARE, "policies": ["greedy"], "requests": 50, "repeats": 1,
                   "runner": Runner(results=tmp_path / "runs.jsonl"), **other})  # fmt: skip

    run()
    with pytest.raises(InputError, match=r"hardware\.num_gpu_blocks 400 there, 300 here"):
        run(hardware=replace(HARDWARE, num_gpu_blocks=300))
    with pytest.raises(InputError, match=r"seed 0 there, 1 here; workload\.digest"):
        run(seed=1)


def test_workers_know_the_policies_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(POLICY_FILE)

    def rows(workers: int) -> str:
        policies = ["greedy", "one-at-a-time:most=2"]
        result = compare(
            "three-types", HARDWARE, policies, requests=60, repeats=1, policy_file=file, runner=Runner(workers)
        )
        assert result.cells[1].parameters == {"most": 2.0}
        return json.dumps(result.to_dict())

    assert rows(1) == rows(2)


@needs_ray
def test_ray_gives_the_same_results_and_survives_a_killed_worker(tmp_path: Path) -> None:
    from work_for_jobs import draw, killed_once, refused

    jobs = jobs_in(tmp_path)
    rows = run_jobs(killed_once, jobs, ray="local", jobs=2, results=tmp_path / "r.jsonl")
    assert (tmp_path / "killed").exists()
    assert as_text(rows) == as_text([draw(job) for job in jobs])
    with pytest.raises(InputError, match=r"^seed 2 is not wanted; use another$"):
        run_jobs(refused, jobs, ray="local", jobs=2)


@needs_ray
def test_a_ray_cluster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    from work_for_jobs import draw

    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        run_jobs(draw, jobs_in(tmp_path, 1), ray="127.0.0.1:1")


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from work_for_jobs import draw

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'fluidgate\[ray\]'"):
        run_jobs(draw, jobs_in(tmp_path, 1), ray="local")
