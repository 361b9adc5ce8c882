"""How many requests of a class may be in flight, from FLUIDGATE_LIMITS."""

from __future__ import annotations

from collections.abc import Mapping

from fluidgate.bounds import MAX_COUNT
from fluidgate.errors import InputError
from fluidgate.serving.admission.headers import is_class_name
from fluidgate.words import shown

VARIABLE = "FLUIDGATE_LIMITS"
DEFAULT, OTHER = "default", "other"
"""The classes of requests that name none, and of those that name one that nobody knows."""


def class_limits(environment: Mapping[str, str]) -> dict[str, int]:
    """Requests in flight by class; classes that are not in it have no limit.

    Raises:
        InputError: the variable is no list such as interactive=200,batch=50.
    """
    limits: dict[str, int] = {}
    for part in filter(str.strip, environment.get(VARIABLE, "").split(",")):
        name, _, count = (word.strip() for word in part.partition("="))
        if not is_class_name(name) or not (count.isascii() and count.isdigit()) or not 1 <= _whole(count) <= MAX_COUNT:
            raise InputError(
                f"{VARIABLE}: {shown(part.strip())} must be a class and how many of its requests may be in flight, "
                "such as interactive=200,batch=50"
            )
        if name in limits:
            raise InputError(f"{VARIABLE} names class {shown(name)} twice; keep one")
        limits[name] = _whole(count)
    return limits


def _whole(digits: str) -> int:
    return int(digits[:20])  # longer ones are too large in any case
