"""`Servers`: pages of servers that run, look by look."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fluidgate.doctor.facts import Facts
from fluidgate.doctor.scraped import facts_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import Address
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.vllm_metrics.scrape import Scrape, fetch_all, fetch_version

MAX_AT_ONCE = 16
"""Servers that are asked at the same time, so that a fleet is seen at one moment."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The looks at one server: the first page, the last one, and what ran and waited in between."""

    first: Scrape
    last: Scrape
    between: tuple[Moment, ...] = ()

    def then(self, scrape: Scrape) -> Seen:
        """With another look."""
        between = self.between + (self.last.moments() if self.last is not self.first else ())
        return Seen(self.first, scrape, between)

    def facts(self) -> Facts:
        """What they say about the time that they cover; one page, about that since the server's start.

        Raises:
            InputError: the server was started again in between.
        """
        if self.last is self.first:
            return facts_of(self.first)
        assert self.first.taken_s is not None
        assert self.last.taken_s is not None
        return facts_of(self.last, self.first, round(self.last.taken_s - self.first.taken_s, 3), self.between)


class Servers:
    """The pages of servers, as many looks as were taken.

    Attributes:
        missed: by address, why the last look at it failed; empty where all did well.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._seen: dict[str, dict[str, Seen]] = {address.url: {} for address in addresses}
        self._versions: dict[str, str | None] = {}
        self.missed: dict[str, str] = {}

    def look(self) -> dict[tuple[str, str], Scrape]:
        """Fetch a page of each; returns those that came, by address and the server's name on its page.

        Raises:
            InputError: none came yet, at this look or before.
        """
        self.missed = {}
        with ThreadPoolExecutor(min(MAX_AT_ONCE, len(self._addresses))) as pool:
            pages = list(pool.map(_fetched, self._addresses))
        came: dict[tuple[str, str], Scrape] = {}
        for address, page in zip(self._addresses, pages, strict=True):
            if isinstance(page, InputError):
                self.missed[address.url] = str(page)
                continue
            for scrape in page:
                seen = self._seen[address.url].get(scrape.server)
                self._seen[address.url][scrape.server] = Seen(scrape, scrape) if seen is None else seen.then(scrape)
                came[address.url, scrape.server] = scrape
        if not any(self._seen.values()):
            raise InputError(next(iter(self.missed.values())))
        return came

    def begin_again(self, url: str, server: str) -> None:
        """Forget the looks at a server before the last one."""
        last = self._seen[url][server].last
        self._seen[url][server] = Seen(last, last)

    def version(self, url: str) -> str | None:
        """The version that a server states, asked once; None where it states none."""
        if url not in self._versions:
            address = next(address for address in self._addresses if address.url == url)
            self._versions[url] = fetch_version(address)
        return self._versions[url]

    def facts(self) -> tuple[dict[str, list[Facts]], list[tuple[str, str]]]:
        """Facts of each server over its looks, by address; and those of which there are none, with the reason.

        Raises:
            InputError: the looks contradict each other, and there is only one server.
        """
        found: dict[str, list[Facts]] = {}
        unread = [(url, self.missed[url]) for url, servers in self._seen.items() if not servers]
        several = len(self._addresses) > 1
        for url, servers in self._seen.items():
            for seen in servers.values():
                try:
                    facts = seen.facts().of_version(self.version(url))
                except InputError as error:
                    if not several:
                        raise
                    unread.append((seen.last.where, str(error)))
                    continue
                found.setdefault(url, []).append(facts)
        return found, unread


def _fetched(address: Address) -> list[Scrape] | InputError:
    try:
        return fetch_all(address)
    except InputError as error:
        return error
