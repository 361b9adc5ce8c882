"""Compiled code on disk: damaged, planted, in others' folders, without a home: it is compiled, and said once."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numba
import pytest

from fluidgate import code_cache
from fluidgate.code_cache import KEPT_STATES, UNUSED_S, cache_folder

KERNELS = """
from fluidgate.kernel import entry_kernel, inlined_kernel, kernel

@inlined_kernel
def doubled(x):
    return 2 * x

@kernel
def squared(x):
    return x * x

@entry_kernel
def together(x):
    return squared(doubled(x)) + 1
"""
FILES = ("doubled", "squared", "together")
STRANGER = 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The named folder of a user who starts fluidgate for the first time; it is not there yet."""
    root = tmp_path / "cache"
    monkeypatch.setenv("FLUIDGATE_CACHE_DIR", str(root))
    (tmp_path / "small_kernels.py").write_text(KERNELS)
    start_anew()
    yield root
    start_anew()


def start_anew() -> None:
    """As a new process knows nothing of what an earlier one found and said."""
    cache_folder.cache_clear()
    code_cache._SAID.clear()


def started(root: Path) -> ModuleType:
    """The kernels as a new process has them: nothing is compiled or loaded yet."""
    start_anew()
    spec = importlib.util.spec_from_file_location("small_kernels", root.parent / "small_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["small_kernels"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(root: Path) -> int:
    """How many of the kernels that ran were loaded; their result is right, however they came."""
    module = started(root)
    assert module.together(3) == 37
    return sum(sum(getattr(module, name).stats.cache_hits.values()) for name in FILES)


def file_of(name: str) -> Path:
    folder = cache_folder()
    assert folder is not None
    (path,) = folder.glob(f"small_kernels.{name}-*.nbc")
    return path


def test_compiled_once_and_loaded_from_then_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    assert [run(root), run(root)] == [1, 1], "the callees' code is in their caller's"
    assert len(list(root.rglob("*"))) == 1 + len(FILES), "one folder, one file for each kernel, nothing left over"
    assert capsys.readouterr().err == ""


def test_a_changed_source_is_compiled(root: Path) -> None:
    run(root)
    kernels = root.parent / "small_kernels.py"
    kernels.write_text(KERNELS.replace("x * x", "x * x * x"))
    assert started(root).together(3) == 6**3 + 1


class Poison:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flipped(share: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(share * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return flip


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": cut(0.0),
    "only the head": cut(0.01),
    "halved": cut(0.5),
    "without its end": cut(0.999),
    "a bit of the head": flipped(0.0),
    "a bit of the digest": flipped(0.01),
    "a bit in the middle": flipped(0.5),
    "the last bit": flipped(1.0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "noise": lambda path: path.write_bytes(os.urandom(5000)),
    "a whole file that holds no code": lambda path: code_cache._write(path, b"no pickle"),
    "of another kernel's shape": lambda path: code_cache._write(path, numba.core.serialize.dumps((1, 2, 3))),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_code_is_compiled_again_and_said_once(
    root: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    run(root)
    for name in FILES:
        damage(file_of(name))
    assert run(root) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("fluidgate: compiled code cannot be loaded (")
    assert run(root) == 1, "it is whole again"
    assert capsys.readouterr().err == ""


def test_a_folder_in_place_of_the_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root)
    as_a_folder(file_of("together"))
    run(root)
    loads, saves = capsys.readouterr().err.splitlines()
    assert "cannot be loaded" in loads
    assert "cannot be kept" in saves


def test_another_kernels_file_is_not_taken(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root)
    shutil.copy(file_of("squared"), file_of("together"))
    assert run(root) == 2, "the callees alone are loaded"
    assert capsys.readouterr().err == ""


def test_planted_code_does_not_run(root: Path) -> None:
    """A pickle that somebody else wrote, without the digest or with another's, is not unpickled."""
    run(root)
    trace = root.parent / "ran"
    path, poison = file_of("together"), numba.core.serialize.dumps(Poison(trace))
    head = path.read_bytes()[: len(code_cache._MAGIC) + 32]
    for content in (poison, head + poison):
        path.write_bytes(content)
        run(root)
        assert not trace.exists()
    code_cache._write(path, poison)
    run(root)
    assert trace.is_dir(), "this poison does work"


@as_root
def test_a_file_of_another_user_does_not_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root)
    path = file_of("together")
    code_cache._write(path, numba.core.serialize.dumps(Poison(root.parent / "ran")))
    os.chown(path, STRANGER, -1)
    run(root)
    assert "belongs to another user" in capsys.readouterr().err
    assert not (root.parent / "ran").exists()
    assert path.stat().st_uid == 0


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (AttributeError("numba has no such name"), "numba has no such name"),
    ],
)
def test_what_cannot_be_kept_is_said_once(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    breaks: Exception,
    reason: str,
) -> None:
    def refuse(*_: object) -> None:
        raise breaks

    monkeypatch.setattr(os, "replace", refuse)
    assert run(root) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot be kept ({cache_folder()}: {reason})" in said
    assert not list(root.rglob("*.*")), "nothing half written is left"


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
    used = old_state(root, "e", UNUSED_S / 2)
    others = root / "not-a-state"
    others.mkdir()
    os.utime(others, (0, 0))
    root.chmod(0o700)
    run(root)
    assert [path.exists() for path in old] == [k < KEPT_STATES - 1 for k in range(4)], "the most recent ones stay"
    assert used.exists()
    assert others.exists()


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
print(together(3), sum(together.stats.cache_hits.values()), together.stats.cache_path)
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


def test_the_command_line_mends_its_cache(tmp_path: Path) -> None:
    """With the engine's own compiled code, of which the parts that compile quickly are damaged."""

    def simulated(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("fluidgate")), "simulate", "--requests", "20", "--rate", "2"]
        more = ["--policy", "greedy", "--format", "json"]
        return subprocess.run([*command, *more], capture_output=True, text=True, env=os.environ | environment)

    simulated()
    warm, folder = simulated(), cache_folder()
    assert folder is not None
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    tmp_path.chmod(0o700)
    damaged = [next(copy.glob(f"fluidgate.engine.compiled.{name}-*")) for name in ("_no_rank", "_no_decision")]
    for path in damaged:
        cut(0.5)(path)
    mended, whole = (simulated(FLUIDGATE_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert (warm.returncode, mended.returncode, whole.returncode) == (0, 0, 0)
    assert warm.stdout == mended.stdout == whole.stdout
    assert warm.stderr == whole.stderr
    (said,) = set(mended.stderr.splitlines()) - set(warm.stderr.splitlines())
    assert said.startswith(f"fluidgate: compiled code cannot be loaded ({copy}")
