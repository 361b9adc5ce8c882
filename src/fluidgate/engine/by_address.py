"""`by_address`: a tuple of arrays that compiled code passes on as a pointer, not as the hundreds of words it holds."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def by_address(value: T) -> T:
    """The same named tuple; in compiled code as a pointer, valid until the function that asks for it returns."""
    return value
