"""From addresses and paths to `Facts`, one for each server."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from fluidgate.doctor.facts import Facts
from fluidgate.doctor.live import Servers
from fluidgate.doctor.logged import facts_of_log
from fluidgate.doctor.scraped import facts_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import Address
from fluidgate.vllm_metrics.log import MARK
from fluidgate.vllm_metrics.saved import saved_page
from fluidgate.vllm_metrics.scrape import Scrape

MAX_LOOKS = 10
"""What runs and waits is looked at this often while doctor waits: one moment says little."""

OTHER_LOGS = {
    "SGLang": re.compile(r"^\[\d{4}-\d\d-\d\d [^\n]*#running-req:", re.ASCII | re.MULTILINE),
    "TensorRT-LLM": re.compile(r"^(\[[^\]\n]*\] )?\[(TRT-LLM|TensorRT-LLM)\]", re.ASCII | re.MULTILINE),
}
"""How lines of other engines' logs begin."""

_BARE = re.compile(r"(?:\S*@)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*)):\d{1,5}(?:/\S*)?")
"""An address whose scheme was left out."""


def read_facts(
    source: str, second: Path | str | None = None, wait_s: float | None = None, *, api_key: str | None = None
) -> Facts:
    """Facts of a server's address, of a saved scrape, or of a log.

    Args:
        source: `http://HOST:PORT`, `HOST:PORT`, or a file: a scrape, or a log with vLLM's lines of statistics. User and
            password may stand before the host; what is shown is without them.
        second: a later scrape of the same run, in a file.
        wait_s: with an address: scrape for so many seconds, at most `MAX_LOOKS` + 1 times; with `second`: the seconds
            between the two.
        api_key: that an address asks for, sent as a bearer token.

    Raises:
        InputError: nothing that can be read there, or several servers; a sentence that says why.
    """
    servers, unread = read_servers([source], second, wait_s, api_key=api_key)
    if unread:
        raise InputError(unread[0][1])
    if len(servers) > 1:
        names = ", ".join(facts.server for facts in servers[:3])
        raise InputError(f"{source}: holds several servers ({names}); `read_servers` reads them all")
    return servers[0]


def read_servers(
    sources: Sequence[str],
    second: Path | str | None = None,
    wait_s: float | None = None,
    *,
    api_key: str | None = None,
) -> tuple[list[Facts], list[tuple[str, str]]]:
    """Facts of each server, and the servers that do not answer, with the reason, where others do.

    A page that holds several servers, told apart by labels such as `pod`, counts as so many. Arguments: see
    `read_facts`.

    Raises:
        InputError: a file that cannot be read, no server that answers, or a source that is given twice.
    """
    if wait_s is not None and not 0.0 < wait_s < 86400.0:
        raise InputError(f"wait_s = {wait_s:g} must be above 0 and below a day, in seconds")
    addresses = {at: address for at, source in enumerate(sources) if (address := as_address(source, api_key))}
    places = [addresses[at].url if at in addresses else source for at, source in enumerate(sources)]
    for at, place in enumerate(places):
        if place in places[:at]:
            raise InputError(f"{place}: is given twice, and would count as two servers; give each once")
    if second is not None:
        if len(sources) > 1:
            raise InputError("a second scrape goes with one first scrape; give the pages of one server at a time")
        if addresses:
            raise InputError("a second scrape in a file goes with a first one in a file; for an address use --wait-s")
        return _two_files(sources[0], second, wait_s), []
    if wait_s is not None and not addresses:
        raise InputError("--wait-s needs a server's address, or a --second scrape taken that much later")
    live, unread = _of_servers(list(addresses.values()), wait_s) if addresses else ({}, [])
    servers: list[Facts] = []
    for at, source in enumerate(sources):
        servers += live.get(addresses[at].url, []) if at in addresses else _of_file(source)
    if not servers:
        raise InputError(unread[0][1])
    return servers, unread


def as_address(source: str, api_key: str | None = None) -> Address | None:
    """The address that a source is; None if it is a file."""
    if "://" in source:
        return Address.of(source, api_key)
    if _BARE.fullmatch(source) and not Path(source).exists():
        return Address.of(f"http://{source}", api_key)
    return None


def _two_files(first: str, second: Path | str, wait_s: float | None) -> list[Facts]:
    texts = [(first, saved_page(first)), (str(second), saved_page(second))]
    earlier, later = ({scrape.server: scrape for scrape in Scrape.servers(text, at)} for at, text in texts)
    for server in earlier.keys() ^ later.keys():
        where = first if server in earlier else second
        raise InputError(f"{where}: only this page holds {server or 'one server alone'}; take both at one place")
    return [facts_of(scrape, earlier[server], wait_s) for server, scrape in later.items()]


def _of_file(source: str) -> list[Facts]:
    text = saved_page(source)
    if MARK not in text and "vllm:" not in text:
        for engine, line in OTHER_LOGS.items():
            if line.search(text):
                raise InputError(f"{source}: is {engine}'s log; fluidgate reads vLLM's")
    if _is_log(text):
        return [facts_of_log(text, source)]
    return [facts_of(scrape) for scrape in Scrape.servers(text, source)]


def _is_log(text: str) -> bool:
    """A log of vLLM, with or without lines of statistics."""
    return MARK in text or ("vllm:" not in text and " INFO " in text)


def _of_servers(
    addresses: Sequence[Address], wait_s: float | None
) -> tuple[dict[str, list[Facts]], list[tuple[str, str]]]:
    """Facts by address, and the servers that did not answer."""
    servers = Servers(addresses)
    servers.look()
    if wait_s is not None:
        looks = max(1, min(MAX_LOOKS, int(wait_s)))
        for _ in range(looks):
            time.sleep(wait_s / looks)
            servers.look()
    return servers.facts()
