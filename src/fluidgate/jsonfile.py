"""JSON in and out, strictly: every error names the file and the key; nothing is written that JSON does not have."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT, MAX_NUMBER
from fluidgate.errors import InputError
from fluidgate.input import read_bytes
from fluidgate.words import has_control, shown

MAX_BYTES = 64 * 2**20
"""Of a file; a grid of step times takes one or two MiB."""


class DuplicateKey(ValueError):
    """A key that one object gives twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r:.60} is given twice in one object; keep one")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs: the `object_pairs_hook` of every reader.

    Raises:
        DuplicateKey: a key twice, of which Python would keep the last.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        count = Counter(key for key, _ in pairs)
        raise DuplicateKey(next(key for key in count if count[key] > 1))
    return values


decode = json.JSONDecoder(object_pairs_hook=unique_keys).decode
"""`json.loads` without a choice between two values of one key.

Raises JSONDecodeError, DuplicateKey, and Python's ValueError or RecursionError for numbers too long or lists too deep.
"""


def plain(value: Any, *, finite: bool = False) -> Any:
    """JSON-ready values: dataclasses by field, arrays, tuples and numpy's numbers as lists and numbers.

    A dataclass with a `digest` stands for tables too long to print, and is given by that. Fields whose metadata say
    `json=False` are left out.

    Args:
        finite: JSON has no NaN and no infinity; null stands for them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "digest"):
            return {"digest": value.digest}
        names = (field.name for field in fields(value) if field.metadata.get("json", True))
        return {name: plain(getattr(value, name), finite=finite) for name in names}
    if isinstance(value, Mapping):
        return {key: plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    return None if finite and isinstance(value, float) and not math.isfinite(value) else value


class JsonObject:
    """A JSON object and the place it came from; `null` counts as absent.

    Args:
        values: the decoded object.
        where: the file, and the part of it, for error messages.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, *, at_least: int = 1, at_most: int = MAX_COUNT, default: int | None = None) -> int:
        """The whole number at `key`; without a default the key is required."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"= {shown(value)} must be a whole number")
        if not at_least <= value <= at_most:
            most = "" if value < at_least else f" and at most {at_most:,}"
            raise self.error(key, f"= {shown(value)} must be at least {at_least}{most}")
        return value

    def number(self, key: str, *, at_most: float = MAX_NUMBER, default: float | None = None) -> float:
        """The number from 0 to `at_most` at `key`."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"= {shown(value)} must be a number")
        if not 0 <= value < math.inf:
            raise self.error(key, f"= {shown(value)} must be finite and at least 0")
        if value > at_most:
            raise self.error(key, f"= {shown(value)} must be at most {at_most:g}")
        return float(value)

    def text(self, key: str, *, default: str | None = None) -> str:
        """The string at `key`, without control characters."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"= {shown(value)} must be a text in quotes")
        if has_control(value):
            raise self.error(key, f"= {shown(value)} holds a control character; take it out")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """The true or false at `key`."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"= {shown(value)} must be true or false")
        return value

    def object(self, key: str) -> JsonObject:
        """The object at `key`."""
        value = self._get(key, None)
        if not isinstance(value, dict):
            raise self.error(key, "must be an object in braces")
        return JsonObject(value, f"{self.where}: {key}")

    def objects(self, key: str) -> list[JsonObject]:
        """The list of objects at `key`."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "must be a list of objects")
        return [JsonObject(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(value)]

    def numbers(
        self,
        key: str,
        shape: tuple[int, ...] | None = None,
        at_least: float = 0.0,
        axes: int = 1,
        at_most: float = MAX_NUMBER,
    ) -> FloatArray:
        """The numbers from `at_least` to `at_most` in the (nested) list at `key`, of this shape or number of axes."""
        try:
            array = np.asarray(self._get(key, None))
        except (ValueError, OverflowError):
            raise self.error(key, "must be a list of numbers, with rows of equal length") from None
        if array.size and array.dtype.kind not in "iuf":
            raise self.error(key, "must be a list of numbers, with rows of equal length")
        array = array.astype(np.float64)
        if array.size == 0 or (array.ndim != axes if shape is None else array.shape != shape):
            expected = shape or f"that of a non-empty list with {'rows' if axes == 2 else 'no lists in it'}"
            raise self.error(key, f"has shape {array.shape}, not {expected}")
        if not np.all(np.isfinite(array)) or np.any(array < at_least):
            small = "negative" if at_least == 0 else f"below {at_least:g}"
            raise self.error(key, f"holds a number that is {small} or not finite")
        if np.any(array > at_most):
            raise self.error(key, f"holds {array.max():g}; its numbers must be at most {at_most:g}")
        return array

    def refuse_others(self, keys: Iterable[str]) -> None:
        """Refuse keys outside `keys`: a misspelt key must not pass for an absent one."""
        others = sorted(set(self.values) - set(keys))
        if others:
            raise self.error(f"{others[0]:.60}", f"is not a known key; the keys are {', '.join(sorted(keys))}")

    def error(self, key: str, why: str) -> InputError:
        """An `InputError` that names the file and `key`."""
        return InputError(f"{self.where}: '{key}' {why}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing; add it")
        return value


def read_object(path: Path | str, what: str) -> JsonObject:
    """The JSON object in the file at `path`; `what` says in an error what was expected there."""
    path = Path(path)
    try:
        text = read_bytes(path, f"give {what}", MAX_BYTES).decode()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of {what}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read as {what}: {problem}") from None
    try:
        values = decode(text)
    except json.JSONDecodeError as problem:
        raise InputError(f"{path}:{problem.lineno}: is not JSON ({problem.msg}); give {what}") from None
    except DuplicateKey as problem:
        raise InputError(f"{path}: {problem}") from None
    except ValueError:  # Python refuses to read numbers of thousands of digits
        raise InputError(f"{path}: holds a number too long to read; give {what}") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be {what}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a JSON {type(values).__name__}, not an object; give {what}")
    return JsonObject(values, str(path))
