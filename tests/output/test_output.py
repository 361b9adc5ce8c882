"""Replacing files: links, modes, pipes and devices, and what is refused before a run."""

import ast
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fluidgate
from fluidgate.errors import InputError
from fluidgate.output import check_writable, make_folder, replacing, write_bytes, write_text

SOURCES = Path(fluidgate.__file__).parent
ANYBODY = os.geteuid() != 0
"""Root writes where permissions forbid it."""


def test_a_file_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as file:
        file.write("new\n")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    write_text(tmp_path / "new", "y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_written_through(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "file", tmp_path / "link"
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_gets_its_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join()
    assert read == [b"through"]
    assert pipe.is_fifo()


def test_what_is_printed_and_what_is_written_to_stdout_keep_their_order(tmp_path: Path) -> None:
    script = "from fluidgate.output import write_text\nprint(1)\nwrite_text('/dev/stdout', '2\\n')\nprint(3)"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "1\n2\n3\n"


def test_what_is_no_text_is_written_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "a", os.fsdecode(b"caf\xe9, caf\xc3\xa9"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9, café"


def unwritable(folder: Path) -> list[tuple[Path, str]]:
    """Paths that cannot be written, and what is said of each."""
    (folder / "file").write_text("a file")
    (folder / "loop").symlink_to(folder / "loop")
    cases = [
        (folder, "cannot be written (Is a directory); choose another path"),
        (
            folder / "no" / "x",
            f"cannot be written (there is no folder {folder / 'no'}); make the folder, or choose another path",
        ),
        (folder / "file" / "x", "cannot be written (Not a directory); choose another path"),
        (folder / "loop", "cannot be written (Too many levels of symbolic links); choose another path"),
        (folder / ("n" * 300), "cannot be written (File name too long); choose another path"),
    ]
    if ANYBODY:
        (folder / "locked").mkdir(mode=0o500)
        (folder / "read-only").write_text("protected")
        (folder / "read-only").chmod(0o400)
        cases += [
            (folder / "locked" / "x", "cannot be written (Permission denied); choose another path"),
            (folder / "read-only", "cannot be written (Permission denied); choose another path"),
        ]
    return cases


def test_before_a_run_the_same_is_refused_in_the_same_words(tmp_path: Path) -> None:
    for path, said in unwritable(tmp_path):
        before = sorted(os.listdir(tmp_path))
        for refused in (lambda path=path: check_writable(path), lambda path=path: write_text(path, "x")):
            with pytest.raises(InputError) as refusal:
                refused()
            assert str(refusal.value) == f"{path}: {said}"
        assert sorted(os.listdir(tmp_path)) == before


def test_trying_a_path_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / ("n" * 255)).write_text("the longest name")
    before = os.stat(tmp_path / "there")
    check_writable(
        tmp_path / "there", tmp_path / "new", None, tmp_path / ("n" * 255), Path("/dev/null"), Path("/dev/null")
    )
    assert sorted(os.listdir(tmp_path)) == ["n" * 255, "there"]
    assert os.stat(tmp_path / "there") == before


def test_two_outputs_cannot_be_one_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="link: is given for two outputs"):
        check_writable(tmp_path / "a", tmp_path / "b", tmp_path / "link")


def test_a_folder_is_made_and_tried(tmp_path: Path, faults) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"):
        make_folder(tmp_path / "file")
    faults.start(0)
    with pytest.raises(InputError, match=r"b: cannot be written \(No space left on device\)"):
        make_folder(tmp_path / "a" / "b")


WRITING = {"output.py", "runs/results_file.py"}
"""The modules that may open files for writing."""

ALLOWED = {
    "code_cache.py": "machine code, which is not for users: a failed write must not end a command",
    "vllm_metrics/address.py": "opens addresses, not files",
    "calibration/server/bench_process.py": "what the load generator prints, in a temporary file without a name",
    "cli/__init__.py": "the null device, in place of an output that takes no more",
    "studies/figures.py": "matplotlib draws into memory",
    "serving/gate_state.py": "for API servers, several times a second, in a private folder; a failure is only logged",
    "serving/admission/doors.py": "numbers that API servers share in a private folder, locked; a failure is logged",
    "serving/vllm_core.py": "a model's configuration for vLLM to read, in a temporary folder",
}


METHODS = {"write_text", "write_bytes", "touch", "savefig", "to_csv", "to_parquet"}
FUNCTIONS = {
    "os": {"open", "fdopen", "rename", "replace", "link", "truncate"},
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move"},
    "tempfile": {"mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory"},
}


def writes(source: str) -> list[int]:
    """Lines of calls that write a file, or look as if they did."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _writes(call)]


def _writes(call: ast.Call) -> bool:
    function = call.func
    modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    if isinstance(function, ast.Name):
        return function.id == "open" and not _reads(modes[1:])
    if not isinstance(function, ast.Attribute):
        return False
    of = function.value.id if isinstance(function.value, ast.Name) else ""
    if of in FUNCTIONS:
        return function.attr in FUNCTIONS[of]
    return function.attr in METHODS or (function.attr == "open" and not _reads(modes))


def _reads(modes: list[ast.expr]) -> bool:
    return not modes or (isinstance(modes[0], ast.Constant) and set(str(modes[0].value)) <= set("rbt"))


def test_only_one_module_writes_files() -> None:
    """A new writer must go through `fluidgate.output`, or be allowed here with a reason."""
    found = {
        f"{path.relative_to(SOURCES)}:{line}"
        for path in SOURCES.rglob("*.py")
        if str(path.relative_to(SOURCES)) not in WRITING | ALLOWED.keys()
        for line in writes(path.read_text(encoding="utf-8"))
    }
    assert found == set()
    assert all(writes((SOURCES / name).read_text(encoding="utf-8")) for name in WRITING | ALLOWED.keys())
