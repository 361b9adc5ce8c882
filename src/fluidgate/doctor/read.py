"""From an address or a path to `Facts`."""

from __future__ import annotations

import re
import time
from pathlib import Path

from fluidgate.doctor.facts import Facts
from fluidgate.doctor.logged import facts_of_log
from fluidgate.doctor.scraped import facts_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import Address
from fluidgate.vllm_metrics.log import MARK
from fluidgate.vllm_metrics.saved import saved_page
from fluidgate.vllm_metrics.scrape import Scrape, fetch

MAX_LOOKS = 10
"""What runs and waits is looked at this often while doctor waits: one moment says little."""

OTHER_LOGS = {
    "SGLang": re.compile(r"^\[\d{4}-\d\d-\d\d [^\n]*#running-req:", re.ASCII | re.MULTILINE),
    "TensorRT-LLM": re.compile(r"^(\[[^\]\n]*\] )?\[(TRT-LLM|TensorRT-LLM)\]", re.ASCII | re.MULTILINE),
}
"""How lines of other engines' logs begin."""


def read_facts(
    source: str, second: Path | str | None = None, wait_s: float | None = None, *, api_key: str | None = None
) -> Facts:
    """Facts of a server's address, of a saved scrape, or of a log.

    Args:
        source: `http://HOST:PORT`, or a file: a scrape, or a log with vLLM's lines of statistics. User and password
            may stand before the host; what is shown is without them.
        second: a later scrape of the same run, in a file.
        wait_s: with an address: scrape for so many seconds, at most `MAX_LOOKS` + 1 times; with `second`: the seconds
            between the two.
        api_key: that an address asks for, sent as a bearer token.

    Raises:
        InputError: nothing that can be read there; a sentence that says why.
    """
    if wait_s is not None and not 0.0 < wait_s < 86400.0:
        raise InputError(f"wait_s = {wait_s:g} must be above 0 and below a day, in seconds")
    if "://" in source:
        if second is not None:
            raise InputError("a second scrape in a file goes with a first one in a file; for an address use --wait-s")
        return _of_server(Address.of(source, api_key), wait_s)
    text = saved_page(source)
    if second is not None:
        return facts_of(Scrape.of(saved_page(second), str(second)), Scrape.of(text, source), wait_s)
    if wait_s is not None:
        raise InputError("--wait-s needs a server's address, or a --second scrape taken that much later")
    if MARK not in text and "vllm:" not in text:
        for engine, line in OTHER_LOGS.items():
            if line.search(text):
                raise InputError(f"{source}: is {engine}'s log; fluidgate reads vLLM's")
    return facts_of_log(text, source) if _is_log(text) else facts_of(Scrape.of(text, source))


def _is_log(text: str) -> bool:
    """A log of vLLM, with or without lines of statistics."""
    return MARK in text or ("vllm:" not in text and " INFO " in text)


def _of_server(address: Address, wait_s: float | None) -> Facts:
    if wait_s is None:
        return facts_of(fetch(address))
    looks = max(1, min(MAX_LOOKS, int(wait_s)))
    scrapes = [fetch(address)]
    for _ in range(looks):
        time.sleep(wait_s / looks)
        scrapes.append(fetch(address))
    first, *between, last = scrapes
    assert first.taken_s is not None
    assert last.taken_s is not None
    return facts_of(last, first, round(last.taken_s - first.taken_s, 3), between)
