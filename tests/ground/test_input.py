"""Files that are too large for their reader are refused in one sentence, before they fill the memory."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from fluidgate.calibration import read_steps
from fluidgate.doctor import read_facts
from fluidgate.errors import InputError
from fluidgate.hardware import read_hardware
from fluidgate.input import read_bytes, read_open, read_text
from fluidgate.runs.results_file import ResultsFile

MIB = 2**20
READERS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a log": (lambda path: read_facts(str(path)), 256, "the last part of it, for example `tail -n 100000 '{}' > "),
    "a second scrape": (lambda path: read_facts(str(path.with_name("page.txt")), path, 30.0), 256, "the last part of"),
    "measured steps": (read_steps, 256, "give fewer rows"),
    "a hardware file": (read_hardware, 64, "give a hardware file"),
    "results": (lambda path: ResultsFile(path, {}), 2048, "name another results file"),
}


@pytest.mark.parametrize("what", READERS)
def test_a_file_that_is_too_large_is_refused(tmp_path: Path, what: str) -> None:
    read, limit, advice = READERS[what]
    path = tmp_path / "too large"
    path.with_name("page.txt").write_text("vllm:num_requests_running 1\n")
    with path.open("wb") as file:
        file.truncate(limit * MIB + 1)
    with pytest.raises(InputError) as refusal:
        read(path)
    assert str(refusal.value).startswith(f"{path}: is larger than {limit:,} MiB; ")
    assert advice.format(path) in str(refusal.value)
    assert path.stat().st_size == limit * MIB + 1, "and left as it is"


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (3 * MIB // 256))
    assert read_bytes(path, "", 3 * MIB) == path.read_bytes()
    with pytest.raises(InputError, match="larger than 2 MiB; cut it"):
        read_bytes(path, "cut it", 3 * MIB - 1)


class Counting(io.FileIO):
    """A file that counts the bytes read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.taken += len(part)
        return part


def test_no_more_is_read_of_what_does_not_tell_its_size() -> None:
    with Counting("/dev/zero") as endless, pytest.raises(InputError, match="/dev/zero: is larger than 3 MiB"):
        read_open(endless, Path("/dev/zero"), "", 3 * MIB)
    assert endless.taken == 3 * MIB + 1


def test_lines_end_in_a_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffa\r\nb\rc\n".encode())
    assert read_text(path, "", encoding="utf-8-sig") == "a\nb\nc\n"
