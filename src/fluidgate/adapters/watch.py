"""`Watch`: asks replicas for their gauges. Those that answer join the gate, and those that are gone leave it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fluidgate.adapters.entrance import Entrance
from fluidgate.errors import InputError
from fluidgate.fleet import Gauges, Replica
from fluidgate.vllm_metrics import Address, Scrape, fetch, kv_size
from fluidgate.vllm_metrics.exposition import parse
from fluidgate.vllm_metrics.names import PREEMPTIONS, SWAPPED, WAITING

logger = logging.getLogger("fluidgate")

ANSWER_S = 2.0
"""A busy server takes this long to answer; one that takes longer may still live."""

MOST_SILENT = 5
"""Looks without any answer after which a replica that may be busy is taken to be gone."""

SAME_SIZE = 0.02
"""Share by which a server's own number of blocks may differ from the plan's."""


@dataclass(frozen=True)
class Look:
    """What one look at a replica has told; all None: it answers, and says nothing of use."""

    gauges: Gauges | None = None
    total_blocks: int | None = None


class Watch:
    """Looks at replicas, one task for each.

    Args:
        entrance: to which replicas are added, and which is told their gauges.
        replica: how one of this name joins, with as many blocks as it says itself (None: it does not say).
        period_s: between two looks at one replica.
    """

    def __init__(
        self, entrance: Entrance, replica: Callable[[str, int | None], Replica], *, period_s: float = 1.0
    ) -> None:
        self._entrance, self._replica, self._period_s = entrance, replica, period_s
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def set_servers(self, servers: Mapping[str, str]) -> None:
        """Look at these addresses from now on, by the names of their replicas; others that were looked at are lost."""
        for name in self._tasks.keys() - servers.keys():
            self._tasks.pop(name).cancel()
            self._entrance.lose(name)
        for name in servers.keys() - self._tasks.keys():
            address = Address.of(servers[name])
            self._tasks[name] = asyncio.get_running_loop().create_task(self._watch(name, address))

    async def _watch(self, name: str, address: Address) -> None:
        silent = 0
        while True:
            asked_s = self._entrance.now_s
            look = await asyncio.to_thread(look_at, address, asked_s)
            if look is not None:
                silent = 0
                self._heard(name, look)
            elif name in self._entrance.replicas:
                silent += 1
                self._missed(name, address, silent, listens=await asyncio.to_thread(_listens, address))
            await asyncio.sleep(self._period_s)

    def _heard(self, name: str, look: Look) -> None:
        if name in self._entrance.replicas:
            self._entrance.resume(name)
        else:
            self._join(name, look.total_blocks)
        if look.gauges is not None:
            self._entrance.note_gauges(name, look.gauges)

    def _join(self, name: str, total_blocks: int | None) -> None:
        planned, told = self._replica(name, None), self._replica(name, total_blocks)
        if abs(told.total_blocks / planned.total_blocks - 1.0) > SAME_SIZE:
            logger.warning(
                "fluidgate: %s has %d KV blocks and the plan says %d; the gate goes by what it has: plan again",
                name,
                told.total_blocks,
                planned.total_blocks,
            )
        self._entrance.add(told)
        logger.info("fluidgate: replica %s takes requests (%d KV blocks)", name, told.total_blocks)

    def _missed(self, name: str, address: Address, silent: int, *, listens: bool) -> None:
        if listens and silent < MOST_SILENT:
            return
        logger.warning("fluidgate: replica %s is gone: nothing answers at %s", name, address.url)
        self._entrance.lose(name)


def look_at(address: Address, now_s: float) -> Look | None:
    """Ask a server for its gauges; None: it does not answer."""
    try:
        scrape = fetch(address, deadline_s=ANSWER_S)
        return Look(_vllm(scrape, now_s), _blocks(scrape))
    except InputError:
        pass
    with suppress(InputError):
        return Look(_sglang(address, now_s))
    with suppress(InputError):
        address.at("/health").get("*/*", deadline_s=ANSWER_S, may_be_empty=True)
        return Look()
    return None


def _vllm(scrape: Scrape, now_s: float) -> Gauges:
    """The gauges of a vLLM server: all its engines together."""
    moments = scrape.moments()
    use = sum(one.kv_use for one in moments) / max(1, len(moments))
    waiting = scrape.total(WAITING) + scrape.total(SWAPPED)
    running = sum(one.running for one in moments)
    return Gauges(waiting, running, min(1.0, use), scrape.total(PREEMPTIONS), measured_s=now_s)


def _blocks(scrape: Scrape) -> int | None:
    """KV blocks of all engines together; None where they alone do not tell what fits."""
    size = kv_size(scrape)
    if size is None or size.several_groups:
        return None
    return (size.num_gpu_blocks - 1) * max(1, len(scrape.moments()))


def _sglang(address: Address, now_s: float) -> Gauges:
    """The gauges of an SGLang server, which has one engine."""
    page = address.at(urlsplit(address.url).path.rstrip("/") or "/metrics")
    samples = parse(page.get("text/plain", deadline_s=ANSWER_S).decode("utf-8", errors="replace"), page.url)
    values = {sample.name: sample.value for sample in samples}
    try:
        return Gauges(
            values["sglang:num_queue_reqs"],
            values["sglang:num_running_reqs"],
            min(1.0, values["sglang:token_usage"]),
            measured_s=now_s,
        )
    except KeyError as missing:
        raise InputError(f"{page.url}: has no {missing}") from None


def _listens(address: Address) -> bool:
    """Whether something accepts connections there."""
    parts = urlsplit(address.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), ANSWER_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # it may be busy
        return True
    return True
