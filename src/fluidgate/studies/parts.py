"""Naming a part of a study."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fluidgate.errors import unknown


def check_parts(parts: Sequence[str], known: Collection[str]) -> None:
    """Refuse a part that a study does not have.

    Raises:
        InputError: such a part; names those that there are.
    """
    for part in parts:
        if part not in known:
            raise unknown("part", part, known)
