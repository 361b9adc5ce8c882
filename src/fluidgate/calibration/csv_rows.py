"""CSV files of measurements, as rows that know their lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.input import read_text


def read_rows(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """Line number and trimmed cells of every row.

    Args:
        what: the file to give instead, for refusals.

    Raises:
        InputError: no such file, or no CSV.
    """
    try:
        text = read_text(path, "give fewer rows", encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give {what}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give {what}") from None
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem.strerror}); give {what}") from None
    reader = csv.reader(io.StringIO(text.rstrip()))
    try:
        return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as problem:
        raise InputError(f"{path}:{reader.line_num}: is not plain CSV ({problem}); write it again") from None
