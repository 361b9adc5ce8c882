"""What a client says about its request in headers, read so that no value can do harm."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from fluidgate.bounds import MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import shown

CLASS, TOTAL, TTFT = "X-Fluidgate-Class", "X-Request-Timeout", "X-TTFT-Timeout"
REQUEST_ID, RETRY_COUNT = "X-Request-Id", "X-Stainless-Retry-Count"
"""The last is what the clients of OpenAI and Anthropic send: 0, and 1 and more when they come again."""

POSITION, EXPECTED_WAIT = "X-Fluidgate-Position", "X-Fluidgate-Expected-Wait"
"""Headers of answers: requests ahead in the queue, and the seconds that these are expected to take."""

LONGEST_ID = 200
"""Bytes of a request id; a longer one counts as none."""

_NAMES = {name.lower().encode(): name for name in (CLASS, TOTAL, TTFT, REQUEST_ID, RETRY_COUNT)}
_STRICT = (CLASS, TOTAL, TTFT)
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True)
class Asked:
    """What a request's headers say.

    Attributes:
        class_name: its class; None: it names none.
        ttft_s, total_s: its deadlines for the first and the last token, in seconds from now.
        request_id: its id, a new one if it brings none that can be used.
        brings_id: whether the client chose it.
        is_first_try: whether the client says that it has not been here before.
    """

    class_name: str | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    request_id: str = ""
    brings_id: bool = False
    is_first_try: bool = False


class BadHeader(InputError):
    """A header that cannot be used; `name` is its name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} {message}")
        self.name = name


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """What a request's headers say.

    Raises:
        BadHeader: a class or a deadline is not usable.
    """
    given: dict[str, bytes] = {}
    for key, value in headers:
        name = _NAMES.get(key.lower())
        if name is None:
            continue
        if name in given and name in _STRICT:
            raise BadHeader(name, "is given more than once; send it once")
        given.setdefault(name, value.strip())
    own_id = given.get(REQUEST_ID, b"")
    brings_id = 0 < len(own_id) <= LONGEST_ID
    return Asked(
        class_name=_class_name(given.get(CLASS)),
        ttft_s=_seconds(TTFT, given.get(TTFT)),
        total_s=_seconds(TOTAL, given.get(TOTAL)),
        request_id=own_id.decode("latin-1") if brings_id else uuid.uuid4().hex,
        brings_id=brings_id,
        is_first_try=given.get(RETRY_COUNT) == b"0",
    )


def is_class_name(text: str) -> bool:
    """Whether a class may have this name."""
    return _CLASS_NAME.fullmatch(text) is not None


def _class_name(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value[:200].decode("latin-1")
    if not is_class_name(text):
        raise BadHeader(
            CLASS, f"= {shown(text)} must be 1 to 100 of the characters A-Z, a-z, 0-9, '.', '_', ':', '/', '-'"
        )
    return text


def _seconds(name: str, value: bytes | None) -> float | None:
    if value is None:
        return None
    text = value[:200].decode("latin-1")
    if not _SECONDS.fullmatch(text) or not 0 < float(text) <= MAX_SECONDS:
        raise BadHeader(
            name, f"= {shown(text)} must be seconds, such as 30 or 2.5, above 0 and at most {MAX_SECONDS:.0f}"
        )
    return float(text)
