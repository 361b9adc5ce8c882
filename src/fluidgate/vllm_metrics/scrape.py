"""`Scrape`: one page of a vLLM server's `/metrics`, and how it is fetched."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan
from urllib.parse import urlsplit

from fluidgate.bounds import MAX_NUMBER
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import DEADLINE_S, Address
from fluidgate.vllm_metrics.exposition import Sample, parse
from fluidgate.vllm_metrics.histogram import Histogram
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.vllm_metrics.names import (
    BY_REASON,
    CONFIG,
    FINISHED,
    GAUGES,
    KV_USE,
    NEEDED,
    OLDER_NAMES,
    OTHER_ENGINES,
    PREEMPTIONS,
    RUNNING,
    STEPS,
    SWAPPED,
    WAITING,
    newest_release,
)
from fluidgate.vllm_metrics.replicas import servers_of


@dataclass(frozen=True, eq=False)
class Scrape:
    """One page of a vLLM server's metrics.

    Attributes:
        where: file or address.
        samples: its lines.
        taken_s: when, seconds since the epoch; None if unknown.
        server: what tells it from other servers of the same page, such as "pod=a"; empty where it is alone.
    """

    where: str
    samples: list[Sample]
    taken_s: float | None = None
    server: str = ""

    @classmethod
    def of(cls, text: str, where: str, taken_s: float | None = None) -> Scrape:
        """Read a page.

        Raises:
            InputError: not a page of metrics, another engine's or several servers'.
        """
        return only(cls.servers(text, where, taken_s), where)

    @classmethod
    def servers(cls, text: str, where: str, taken_s: float | None = None) -> list[Scrape]:
        """Read a page that may hold several servers, each with an engine 0.

        Raises:
            InputError: not a page of metrics, another engine's, or lines of which it is not clear whose they are.
        """
        if text.lstrip().startswith(("<", "{", "[")):
            raise InputError(f"{where}: is not a page of metrics but HTML or JSON; the address ends in /metrics")
        servers = servers_of(parse(text, where), where)
        scrapes = [
            cls(f"{where} ({server})" if server else where, samples, taken_s, server)
            for server, samples in servers.items()
        ]
        for scrape in scrapes:
            scrape._refuse_foreign()
            scrape._refuse_repeats()
        return scrapes

    @cached_property
    def _by_name(self) -> dict[str, list[Sample]]:
        by_name: dict[str, list[Sample]] = {}
        for sample in self.samples:
            by_name.setdefault(sample.name, []).append(sample)
        for older, name in OLDER_NAMES.items():
            if older in by_name:
                by_name.setdefault(name, by_name[older])
        return by_name

    def _refuse_foreign(self) -> None:
        if not any(name.startswith("vllm:") for name in self._by_name):
            others = [
                title for name in self._by_name for prefix, title in OTHER_ENGINES.items() if name.startswith(prefix)
            ]
            whose = f"are {others[0]}'s" if others else "name no engine"
            raise InputError(
                f"{self.where}: the metrics {whose}; fluidgate reads vLLM's, whose names begin with 'vllm:'"
            )
        missing = [name for name in NEEDED if name not in self._by_name]
        # Where several processes share the page, vLLM shows its gauges from the first step on.
        fresh = STEPS in self and self.total(STEPS) == 0 and set(missing) <= set(GAUGES)
        # Early versions of the present engine did not count preemptions.
        early = missing == [PREEMPTIONS] and self.newest_release is not None
        if missing and not fresh and not early:
            raise InputError(
                f"{self.where}: has no {missing[0]}; fluidgate reads the names of vLLM 0.6 to 0.33, and whole pages"
            )

    def _refuse_repeats(self) -> None:
        """What is twice on a page would be added up."""
        seen: dict[tuple[str, frozenset[tuple[str, str]]], int] = {}
        for sample in self.samples:
            series = sample.name, frozenset(sample.labels.items())
            if sample.name.startswith("vllm:") and series in seen:
                raise InputError(
                    f"{self.where}, line {sample.line}: repeats line {seen[series]}, with the same labels; give one "
                    "page of one time, and each of several servers by itself"
                )
            seen[series] = sample.line

    @property
    def newest_release(self) -> tuple[int, int] | None:
        """The newest vLLM that publishes such a page; None where it has today's names."""
        return newest_release({sample.name for sample in self.samples})

    @property
    def models(self) -> set[str]:
        """Names of the models served."""
        return {sample.labels.get("model_name", "") for name in NEEDED for sample in self._by_name.get(name, [])}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def total(self, name: str, **labels: str) -> float:
        """The value summed over engines and labels; 0 where there is none.

        Raises:
            InputError: a value that is no amount.
        """
        return sum(self._amounts(name, labels).values())

    def highest(self, name: str, **labels: str) -> float:
        """The value of the engine that has most; 0 where there is none."""
        return max(self._amounts(name, labels).values(), default=0.0)

    def per_engine(self, name: str, **labels: str) -> dict[str, float]:
        """The value of each engine, summed over other labels."""
        return self._amounts(name, labels)

    def _amounts(self, name: str, labels: dict[str, str]) -> dict[str, float]:
        amounts: dict[str, float] = {}
        for sample in self._by_name.get(name, []):
            if not 0 <= sample.value <= MAX_NUMBER:
                raise InputError(
                    f"{self.where}, line {sample.line}: {name} = {sample.value:g} must be a finite number of at least 0"
                    f" and at most {MAX_NUMBER:g}"
                )
            if labels.items() <= sample.labels.items():
                engine = sample.labels.get("engine", "0")
                amounts[engine] = amounts.get(engine, 0.0) + sample.value
        return amounts

    def histogram(self, name: str) -> Histogram | None:
        """The histogram summed over engines; None if the page has none of that name."""
        merged: Histogram | None = None
        where = f"{self.where}: vllm:{name}"
        totals = self.per_engine(f"vllm:{name}_sum")
        for engine, buckets in self._buckets(f"vllm:{name}_bucket").items():
            histogram = Histogram.of_cumulative(list(buckets), list(buckets.values()), totals.get(engine, inf), where)
            merged = histogram if merged is None else merged.plus(histogram, where)
        return merged

    def _buckets(self, name: str) -> dict[str, dict[float, float]]:
        engines: dict[str, dict[float, float]] = {}
        for sample in self._by_name.get(name, []):
            try:
                edge = float(sample.labels["le"])
            except (KeyError, ValueError):
                raise InputError(
                    f"{self.where}, line {sample.line}: a bucket needs a number as its label 'le'"
                ) from None
            buckets = engines.setdefault(sample.labels.get("engine", "0"), {})
            buckets[edge] = buckets.get(edge, 0.0) + sample.value
        return engines

    def moments(self) -> tuple[Moment, ...]:
        """What runs and waits, per engine. Requests deferred for other reasons than capacity do not wait for it."""
        running = self.per_engine(RUNNING) or dict.fromkeys(self.per_engine(FINISHED), 0.0)
        kv_use = self.per_engine(KV_USE)
        waiting = self.per_engine(BY_REASON, reason="capacity") or self.per_engine(WAITING)
        swapped = self.per_engine(SWAPPED)
        if max(kv_use.values(), default=0.0) > 1.0 + 1e-6:
            raise InputError(f"{self.where}: {KV_USE} = {max(kv_use.values()):g} must be a share of at most 1")
        return tuple(
            Moment(engine, count, waiting.get(engine, 0.0) + swapped.get(engine, 0.0), kv_use.get(engine, 0.0))
            for engine, count in running.items()
        )

    def in_system(self) -> float:
        """Requests that run or wait, over all engines."""
        return self.total(RUNNING) + self.total(WAITING) + self.total(SWAPPED)

    def setting(self, name: str) -> str | None:
        """A value of vLLM's cache configuration; None where it is not stated."""
        for sample in self._by_name.get(CONFIG, []):
            value = sample.labels.get(name)
            if value not in (None, "None"):
                return value
        return None

    def count(self, name: str) -> int | None:
        """A number of blocks or tokens among those values; None where it is not stated.

        Raises:
            InputError: it is no number, or none that a machine can have.
        """
        text = self.setting(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 12):
            raise InputError(
                f"{self.where}: {CONFIG} holds a {name} that is no number of blocks or tokens; scrape the page again"
            )
        return int(text)

    def quantity(self, name: str) -> float | None:
        """Any other number among those values; None where it is not stated.

        Raises:
            InputError: it is no number above 0.
        """
        text = self.setting(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not 0.0 < value <= MAX_NUMBER:
            raise InputError(f"{self.where}: {CONFIG} holds a {name} that is no number above 0; scrape the page again")
        return value

    def labelled(self, name: str, label: str) -> set[str]:
        """The values that a label has in the lines of a name."""
        return {sample.labels[label] for sample in self._by_name.get(name, []) if label in sample.labels}

    def age_s(self) -> float | None:
        """Seconds since the server's process started; None if the page or the time of the scrape does not tell."""
        start = self.total("process_start_time_seconds")
        return self.taken_s - start if self.taken_s is not None and 0.0 < start < self.taken_s else None


def only(scrapes: list[Scrape], where: str) -> Scrape:
    """The one server of a page. Errors: InputError if there are several."""
    if len(scrapes) > 1:
        names = ", ".join(scrape.server for scrape in scrapes[:3]) + ", …" * (len(scrapes) > 3)
        raise InputError(f"{where}: holds the metrics of several servers ({names}); scrape one")
    return scrapes[0]


def fetch(server: str | Address, *, deadline_s: float = DEADLINE_S) -> Scrape:
    """As `fetch_all`, of one server; a page of several is refused."""
    scrapes = fetch_all(server, deadline_s=deadline_s)
    return only(scrapes, scrapes[0].where.partition(" (")[0])


def fetch_all(server: str | Address, *, deadline_s: float = DEADLINE_S) -> list[Scrape]:
    """The servers on the page of metrics behind an address.

    Args:
        server: its address; the path is /metrics where it has none.
        deadline_s: for the whole page.

    Raises:
        InputError: not an address, no answer, an answer that is an error or no page of metrics.
    """
    address = server if isinstance(server, Address) else Address.of(server)
    page = address.at(urlsplit(address.url).path.rstrip("/") or "/metrics")
    text = page.get("text/plain; version=0.0.4", deadline_s=deadline_s).decode("utf-8", errors="replace")
    try:
        return Scrape.servers(text, page.url, taken_s=time.time())
    except InputError as error:
        raise InputError(address.hide(str(error))) from None


def fetch_version(server: Address, *, deadline_s: float = 2.0) -> str | None:
    """The release that a server states at `/version`; None where it states none."""
    try:
        told = json.loads(server.at("/version").get("application/json", deadline_s=deadline_s, most_bytes=2**16))
    except (InputError, ValueError, RecursionError):
        return None
    version = told.get("version") if isinstance(told, dict) else None
    return version if isinstance(version, str) and len(version) < 60 and version.isprintable() else None
