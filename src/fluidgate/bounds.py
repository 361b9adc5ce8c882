"""The largest numbers that a file or an option may hold: beyond them it is a slip, and arithmetic would overflow."""

from __future__ import annotations

import math
import os
from typing import Any

from fluidgate.errors import InputError
from fluidgate.words import has_control, shown

MAX_COUNT = 2**31 - 1
"""Tokens, KV blocks, seats, token budgets: vLLM keeps them in 32-bit integers, and products of two fit 64 bits."""
MAX_BLOCK_SIZE = 2**16
"""Tokens per KV block; vLLM's largest are a few thousand."""
MAX_KV_TOKENS = MAX_COUNT * MAX_BLOCK_SIZE
"""Below 2⁵³, so that a float holds it exactly."""
MAX_REPLICAS = 10_000
MAX_REPEATS = 10_000
MAX_JOBS = 1_024
MAX_GPUS = 1_024
MAX_REQUESTS = 10**8
"""More would not fit the memory of the machines this runs on."""
MAX_SEED = 2**63 - 1

MIN_STEP_S, MAX_STEP_S = 1e-9, 1e6
"""Seconds of an engine step: no GPU is done in a nanosecond, and none takes eleven days."""
MAX_SECONDS = 2.0**33
"""A clock: 272 years, where the floats lie a microsecond apart."""
MIN_RATE, MAX_RATE = 1e-10, 1e9
"""Requests per second: two in 272 years, and one in every nanosecond."""
MAX_NUMBER = 1e15
"""Any other number: a few of them multiplied do not overflow."""


def check_whole(name: str, value: Any, least: int = 1, most: int = MAX_COUNT) -> None:
    """Refuse what is not a whole number from `least` to `most`."""
    if not (value >= least and value % 1 == 0):
        raise InputError(f"{name} = {shown(value)} must be a whole number, at least {least}")
    if value > most:
        raise InputError(f"{name} = {shown(value)} must be at most {most:,}")


def check_number(name: str, value: float, least: float, most: float, unit: str) -> None:
    """Refuse what is not a number from `least` to `most`."""
    if not least <= value <= most:
        raise InputError(f"{name} = {shown(value)} must be between {least:g} and {most:g} {unit}")


def above_zero(text: str, refusal: str) -> float:
    """The finite number above 0 in a text; an `InputError` that says `refusal` where there is none."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(refusal)
    return number


def check_name(what: str, text: str) -> None:
    """Refuse a name that would steer the terminal or break the line it is printed on."""
    if has_control(text):
        raise InputError(f"{what} {text!r} holds a control character; take it out")


def physical_memory_bytes() -> float:
    """Memory of this machine; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
