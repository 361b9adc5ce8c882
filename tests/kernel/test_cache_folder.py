"""Where compiled code is kept: private, without old states, without a home, and for processes that start at once."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluidgate.code_cache import KEPT_STATES, UNUSED_S, cache_folder

from .kernels import FILES, STRANGER, as_root, run, started


def test_the_folder_is_made_private(root: Path) -> None:
    before = os.umask(0)
    try:
        run(root)
    finally:
        os.umask(before)
    folder = cache_folder()
    assert folder is not None
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, folder)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def state_of(root: Path) -> Path:
    run(root)
    folder = cache_folder()
    assert folder is not None
    return folder


@pytest.mark.parametrize("which", ["root", "state"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o722, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], which: str, mode: int
) -> None:
    state = state_of(root)
    refused = root if which == "root" else state
    refused.chmod(mode)
    assert_refused(root, capsys, f"others can write to {refused}: delete it")


@as_root
@pytest.mark.parametrize("which", ["root", "state"])
def test_a_folder_of_another_user_is_refused(root: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    state = state_of(root)
    refused = root if which == "root" else state
    os.chown(refused, STRANGER, STRANGER)
    assert_refused(root, capsys, f"{refused} belongs to another user")


def assert_refused(root: Path, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert run(root) == 0
    said = capsys.readouterr().err
    assert said == f"fluidgate: compiled code is not kept ({reason}); set FLUIDGATE_CACHE_DIR to a folder of your own\n"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == files, "and nothing is written there"


def test_a_file_in_place_of_the_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.write_text("")
    run(root)
    assert capsys.readouterr().err.startswith(f"fluidgate: compiled code is not kept ({root}: ")


def test_a_link_among_temporary_files_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can put a link there that leads into one of the user's own folders."""
    monkeypatch.delenv("FLUIDGATE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(root.parent))
    root.mkdir()
    place = root.parent / f"fluidgate-{os.geteuid()}"
    place.symlink_to(root)
    run(root)
    assert f"{place} is no folder" in capsys.readouterr().err
    assert not list(root.iterdir())


def old_state(root: Path, letter: str, unused_s: float) -> Path:
    path = root / f"code-{letter * 16}"
    (path / "engine").mkdir(parents=True)
    (path / "engine" / "old.nbc").write_text("")
    os.utime(path, (time.time() - unused_s,) * 2)
    return path


def test_a_new_state_removes_old_ones(root: Path) -> None:
    old = [old_state(root, letter, 2 * UNUSED_S + 60 * k) for k, letter in enumerate("abcd")]
    others = root / "not-a-state"
    others.mkdir()
    os.utime(others, (0, 0))
    root.chmod(0o700)
    run(root)
    assert [path.exists() for path in old] == [k < KEPT_STATES for k in range(4)], "the most recent ones stay"
    assert others.exists()


def test_states_that_were_used_within_a_day_stay_however_many_they_are(root: Path) -> None:
    """As those of several checkouts that are used in turn."""
    used = [old_state(root, letter, 23 * 3600) for letter in "abcd"]
    unused = [old_state(root, letter, 25 * 3600) for letter in "ef"]
    root.chmod(0o700)
    run(root)
    assert all(path.exists() for path in used)
    assert not any(path.exists() for path in unused)


def test_a_known_state_removes_nothing(root: Path) -> None:
    run(root)
    old = [old_state(root, letter, 2 * UNUSED_S) for letter in "abcd"]
    run(root)
    assert all(path.exists() for path in old)


def test_a_state_that_another_process_removes_is_made_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = started(root)
    folder = cache_folder()
    assert folder is not None
    shutil.rmtree(folder)
    assert module.together(3) == 37
    assert run(root) == 1
    assert capsys.readouterr().err == ""


USER = """
import os, sys, numba
numba.njit(lambda x: x + 1)(1)  # all that numba loads is loaded: the interpreter may be out of the stranger's reach
os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
sys.path.insert(0, sys.argv[1])
from small_kernels import together
stats = together.dispatcher.stats
print(together(3), sum(stats.cache_hits.values()), stats.cache_path)
"""


def process(folder: Path, user: int, **environment: str) -> subprocess.Popen[str]:
    """A process of a user that calls the kernel."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    words = [sys.executable, "-c", USER, str(folder), str(user)]
    return subprocess.Popen(
        words, env=kept | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


@pytest.fixture
def open_folder(root: Path) -> Iterator[Path]:
    """A folder with the kernels, which every user can read, and temporary files of its own."""
    folder = Path("/tmp", f"fluidgate-test-{os.getpid()}-{time.monotonic_ns()}")
    (folder / "tmp").mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy(root.parent / "small_kernels.py", folder)
    yield folder
    shutil.rmtree(folder)


@as_root
@pytest.mark.parametrize("home", ["none", "nonexistent", "read-only", "empty", "own"])
def test_users_without_a_home_of_their_own(open_folder: Path, home: str) -> None:
    """An unknown user, who has no entry in the password file either."""
    homes = {"none": {}, "nonexistent": {"HOME": "/nonexistent"}, "empty": {"HOME": ""}}
    mine = open_folder / "home"
    mine.mkdir(mode=0o755)
    if home == "own":
        os.chown(mine, STRANGER, STRANGER)
    environment = {
        "TMPDIR": str(open_folder / "tmp"),
        "FLUIDGATE_CACHE_DIR": "",
        **homes.get(home, {"HOME": str(mine)}),
    }
    expected = mine / ".cache" / "fluidgate" if home == "own" else open_folder / "tmp" / f"fluidgate-{STRANGER}"
    out, said = process(open_folder, STRANGER, **environment).communicate()
    assert said == ""
    assert out.split()[0] == "37"
    assert Path(out.split()[2]).parent == expected
    assert len(list(expected.rglob("*.nbc"))) == len(FILES)
    assert expected.stat().st_uid == STRANGER


@as_root
def test_a_named_folder_is_used_without_a_home(open_folder: Path) -> None:
    mine = open_folder / "named"
    mine.mkdir(mode=0o700)
    os.chown(mine, STRANGER, STRANGER)
    out, said = process(open_folder, STRANGER, FLUIDGATE_CACHE_DIR=str(mine)).communicate()
    assert said == ""
    assert Path(out.split()[2]).parent == mine


@as_root
def test_without_any_place_it_runs_and_says_so(open_folder: Path) -> None:
    out, said = process(open_folder, STRANGER, FLUIDGATE_CACHE_DIR=str(open_folder / "named")).communicate()
    assert out.split() == ["37", "0", "None"]
    assert said.count("\n") == 1
    assert f"compiled code is not kept ({open_folder / 'named'}: Permission denied)" in said


@as_root
def test_a_folder_of_which_everything_can_be_read_and_nothing_written(open_folder: Path) -> None:
    mine = open_folder / "named"
    mine.mkdir(mode=0o700)
    os.chown(mine, STRANGER, STRANGER)
    process(open_folder, STRANGER, FLUIDGATE_CACHE_DIR=str(mine)).communicate()
    for path in (mine, *mine.iterdir()):
        path.chmod(0o500)
    next(mine.rglob("*together*")).unlink()
    out, said = process(open_folder, STRANGER, FLUIDGATE_CACHE_DIR=str(mine)).communicate()
    assert out.split()[:2] == ["37", "0"]
    assert "compiled code cannot be kept" in said
    assert said.count("\n") == 1


def test_four_processes_at_once(root: Path) -> None:
    words = [sys.executable, "-c", "from small_kernels import together; print(together(3))"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    four = [subprocess.Popen(words, cwd=root.parent, text=True, **pipes) for _ in range(4)]
    for started_at_once in four:
        out, said = started_at_once.communicate()
        assert (out.split()[0], said) == ("37", "")
    assert run(root) == 1
    assert len(list(root.rglob("*"))) == 1 + len(FILES)
