"""Compiled code that is damaged, planted or cannot be kept: it is compiled, and that is said once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

from fluidgate import code_cache
from fluidgate.code_cache import cache_folder

from .kernels import FILES, KERNELS, STRANGER, as_root, file_of, run, started


def test_compiled_once_and_loaded_from_then_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    assert [run(root), run(root)] == [1, 1], "the callees' code is in their caller's"
    assert len(list(root.rglob("*"))) == 1 + len(FILES), "one folder, one file for each kernel, nothing left over"
    assert capsys.readouterr().err == ""


def test_a_caller_is_compiled_with_code_that_was_loaded(root: Path) -> None:
    """As the router is, with the step loop of an earlier run."""
    run(root)
    module = started(root)
    assert module.around(3) == 37 + 65
    assert sum(module.together.dispatcher.stats.cache_hits.values()) == 1
    assert started(root).around(3) == 37 + 65


def test_a_changed_source_is_compiled(root: Path) -> None:
    run(root)
    kernels = root.parent / "small_kernels.py"
    kernels.write_text(KERNELS.replace("x * x", "x * x * x"))
    assert started(root).together(3) == 6**3 + 1


def test_code_is_not_kept_under_sources_that_changed_since_they_were_imported(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled is what was imported; the folder is named by what is on disk."""
    started(root)
    code_cache._state_of_sources.cache_clear()
    with monkeypatch.context() as earlier:
        earlier.setattr(code_cache, "_IMPORTED_NS", 0)
        assert run(root) == 0
    said = capsys.readouterr().err
    assert said.startswith("fluidgate: compiled code is not kept (")
    assert said.endswith(".py was changed after this process began); start again\n")
    assert not root.exists()


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
    assert started(root).around(3) == 37 + 65
    shutil.copy(file_of("around"), file_of("together"))
    assert run(root) == 0
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
