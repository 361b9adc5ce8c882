"""The results file: one run at a time, every line checked, and whatever happens to it, the same results in the end."""

import errno
import fcntl
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluidgate.errors import InputError, ResultsWarning
from fluidgate.runs import Runner
from fluidgate.runs import results_file as module
from fluidgate.runs.result_shape import fits, shape_of
from fluidgate.runs.results_file import ResultsFile

HEADER = {"seed": 1}


@dataclass(frozen=True)
class Job:
    """A job of these tests."""

    seed: int


JOBS = [Job(seed) for seed in range(3)]


class Work:
    """Counts its runs; a result has a number that must not lose a bit."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def __call__(self, job: Job) -> dict[str, Any]:
        self.ran.append(job.seed)
        return {"third": (job.seed + 1) / 3}


WANTED = [Work()(job) for job in JOBS]
SHAPE = {"third": float}


def run(path: Path, jobs: list[Job] = JOBS, **settings: Any) -> list[int]:
    """Run the jobs on a file, assert their results; returns the jobs that had to run."""
    work = Work()
    rows = Runner(results=path).run(work, jobs, **{"header": HEADER, "shape": SHAPE, **settings})
    assert rows == [WANTED[job.seed] for job in jobs]
    return work.ran


def quietly(path: Path) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole file of all jobs."""
    assert run(tmp_path / "r.jsonl") == [0, 1, 2]
    return tmp_path / "r.jsonl"


def test_a_whole_file_is_taken_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    assert quietly(path) == []
    assert path.read_bytes() == before
    header, *entries = [json.loads(line) for line in before.splitlines()]
    assert header.items() >= {"results_format": 2, "seed": 1}.items()
    assert [entry["result"] for entry in entries] == WANTED


def test_cut_anywhere_it_goes_on_to_the_same_file(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = max(0, whole[:size].count(b"\n") - 1)
        assert quietly(path) == [0, 1, 2][kept:]
        assert path.read_bytes() == whole


def test_a_flipped_bit_never_passes(path: Path) -> None:
    """Of every byte one bit: the job of its line runs again and the line is named, or the header is refused."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        line = whole.count(b"\n", 0, place) + 1
        if place == len(whole) - 1:  # the last line end: as if torn
            assert quietly(path) == [2]
            continue
        with pytest.warns(ResultsWarning, match=rf"r\.jsonl:{line}\D.*torn or altered") as caught:
            again = run(path)
        assert len(caught) == 1
        at_end = whole[place : place + 1] == b"\n"  # it joins two lines
        lost = {line, line + 1} if at_end else {line}
        assert again == [job for job in range(3) if job + 2 in lost]
        with pytest.warns(ResultsWarning):
            assert run(path) == []


def test_an_altered_header_without_results_is_refused(path: Path) -> None:
    header = path.read_bytes().splitlines(keepends=True)[0]
    for place in range(len(header) - 1):
        altered = bytearray(header)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        with pytest.raises(InputError, match=r"r\.jsonl: is not a results file of fluidgate, or its first line is"):
            run(path)
        assert path.read_bytes() == altered


def test_altered_lines_are_named_once_in_one_sentence(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\n" + lines[1] + b"{}\n\xff\n" + lines[2] + b"x" * 9 + b"\n" * 12 + lines[3])
    with pytest.warns(ResultsWarning) as caught:
        assert run(path) == []
    assert [str(one.message) for one in caught] == [
        f"{path}:2, 4, 5, 7, 8, 9, 10, 11, 12, 13 and 5 more: torn or altered, so ignored; what is missing runs again"
    ]


def test_a_study_that_opens_the_file_again_says_it_once(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run(path)
        Runner(results=path).run(Work(), [], header=HEADER)
    assert len(caught) == 1


def test_lines_of_another_header_do_not_count(path: Path, tmp_path: Path) -> None:
    """Two files in one, as `cat` makes it: the second one's numbers belong to other settings."""
    other = tmp_path / "other.jsonl"
    run(other, header={"seed": 2})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + other.read_bytes())
    with pytest.warns(ResultsWarning, match=r"r\.jsonl:3, 4, 5, 6: "):
        assert run(path) == [1, 2]


def test_the_later_of_two_good_lines_counts(path: Path) -> None:
    with ResultsFile(path, HEADER) as file:
        (key,) = [key for key, result in file.results(file._held).items() if result == WANTED[0]]
        file.append(key, {"seed": 0}, {"third": 7.0})
    with ResultsFile(path, HEADER) as file:
        assert file.results([key]) == {key: {"third": 7.0}}


@pytest.mark.parametrize(
    "result", [{}, {"third": "x"}, {"third": None}, {"third": [1.0]}, {"other": 1.0}, {"third": 1.0, "other": 1.0}]
)
def test_a_result_of_another_kind_is_named_and_runs_again(path: Path, result: dict[str, Any]) -> None:
    """With a right checksum: by another state of the code that calls itself the same version."""
    with ResultsFile(path, HEADER) as file:
        key = list(file._held)[1]
        file.append(key, {"seed": 1}, result)
    with pytest.warns(ResultsWarning, match=r"r\.jsonl:5: another kind of result") as caught:
        assert run(path) == [1]
    assert len(caught) == 1
    assert quietly(path) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"key": 1, "job": {}, "result": {}},
        {"key": "k", "job": [], "result": {}},
        {"key": "k", "job": {}, "result": 1.0},
        {"key": "k", "result": {}},
    ],
)
def test_an_entry_of_another_shape_is_named(path: Path, entry: dict[str, Any]) -> None:
    with ResultsFile(path, HEADER) as file:
        file._write(module._with_checksum(entry, file._seed))
    with pytest.warns(ResultsWarning, match=r"r\.jsonl:5: torn or altered"):
        assert run(path) == []


def test_a_file_without_checksums_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text('{"fluidgate": "0.1.0", "seed": 1}\n{"key": "k", "job": {"seed": 0}, "result": {"third": 1.0}}\n')
    before = old.read_bytes()
    with pytest.raises(
        InputError, match=r"old\.jsonl: has no checksums, as an earlier fluidgate wrote it; name another"
    ):
        run(old)
    assert old.read_bytes() == before


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null"])
def test_a_device_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"{device}: is no file that a run could continue from"):
        run(Path(device))


def test_shapes_are_told_apart() -> None:
    @dataclass
    class Row:
        whole: int
        share: float
        stable: bool | None
        name: str

    shape = {"rows": [shape_of(Row, name=None)]}
    good = {"whole": 1, "share": 1, "stable": None}
    assert fits({"rows": []}, shape)
    assert fits({"rows": [good, good | {"share": 0.5, "stable": True}]}, shape)
    for bad in ({"whole": 1.5}, {"share": None}, {"stable": "yes"}, {"name": "n"}):
        assert not fits({"rows": [good, good | bad]}, shape)
    assert not fits({"rows": {}}, shape)
    assert not fits({"rows": [1]}, shape)
    assert not fits([], shape)


HOLDER = """
import sys
from pathlib import Path
from fluidgate.runs.results_file import ResultsFile

with ResultsFile(Path(sys.argv[1]), {"seed": 1}):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_ends(path: Path) -> None:
    before = path.read_bytes()
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match=r"^\S*r\.jsonl: another run is writing to this file; let it end, or name"):
            run(path)
        second = subprocess.run(command, input=b"", capture_output=True, check=False)
        assert second.returncode != 0
        assert b"another run is writing" in second.stderr
        first.kill()  # a lock does not outlive its process
    assert quietly(path) == []
    assert path.read_bytes() == before


def test_of_two_runs_that_start_at_once_one_writes_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second opens the file when the first has not read a byte of it yet."""
    resume = ResultsFile._resume

    def meanwhile(self: ResultsFile) -> None:
        with pytest.raises(InputError, match="another run is writing"):
            ResultsFile(self.path, HEADER)
        resume(self)

    monkeypatch.setattr(ResultsFile, "_resume", meanwhile)
    assert run(tmp_path / "r.jsonl") == [0, 1, 2]
    assert (tmp_path / "r.jsonl").read_bytes().count(b"results_format") == 1


def test_a_file_that_cannot_be_locked_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match=r"r\.jsonl: cannot be written \(No locks available\)"):
        run(path)


@pytest.mark.parametrize("most_bytes", [1 << 20, 40])
def test_an_error_at_any_operation_costs_only_what_was_not_written(
    tmp_path: Path, faults: Any, most_bytes: int
) -> None:
    faults.most_bytes = most_bytes
    path = tmp_path / "r.jsonl"
    run(path)
    whole, operations = path.read_bytes(), list(faults.done)
    assert operations.count("write") >= 4
    for fail_at, operation in enumerate(operations):
        path.unlink(missing_ok=True)
        faults.start(fail_at)
        with pytest.raises(InputError, match=r"r\.jsonl: cannot be written \(No space left on device\); ") as refusal:
            run(path)
        if operation == "write" and path.read_bytes().count(b"\n"):
            assert str(refusal.value).endswith("the same command continues from this file")
        left = path.read_bytes() if path.exists() else b""
        assert whole.startswith(left)
        faults.start()
        assert quietly(path) == [0, 1, 2][max(0, left.count(b"\n") - 1) :]
        assert path.read_bytes() == whole


def test_a_fault_of_ours_is_not_hidden_by_a_full_disk(path: Path, faults: Any) -> None:
    def broken(job: Job) -> dict[str, Any]:
        faults.start(0)  # closing fails too
        raise ZeroDivisionError("a fault of ours")

    with pytest.raises(ZeroDivisionError):
        Runner(results=path).run(broken, [Job(7)], header=HEADER)


def test_an_interrupted_run_says_that_it_can_go_on(path: Path) -> None:
    def interrupted(job: Job) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupt:
        Runner(results=path).run(interrupted, [Job(7)], header=HEADER)
    assert interrupt.value.__notes__ == [f"{path} keeps the finished runs, and the same command continues from it"]
