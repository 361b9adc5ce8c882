"""`Candidates`: the replicas that a synchronous router offers with each request, as those of a `FleetGate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fluidgate.adapters.planned import Planned
from fluidgate.adapters.routing_stats import blocks_of, gauges_of
from fluidgate.adapters.watch import SAME_SIZE
from fluidgate.fleet import FleetGate

logger = logging.getLogger("fluidgate")

LOST_S = 60.0
"""A replica that no request was offered for so long is gone, and what was in flight there."""

SAME_STATS_S = 0.5
"""Statistics that have not changed are passed on so often."""


class Offered(Protocol):
    """An endpoint as llm-d's scheduler has it; `attributes` may hold `routing_stats` and `kv_cache_size`."""

    name: str
    attributes: dict[str, Any]


class Candidates:
    """Adds replicas to a gate when they are first offered, and drains those that are not.

    Args:
        stats_age_s: how old their statistics are.
        given_blocks: KV blocks of each, whatever it says of itself; None: what it says.
    """

    def __init__(self, gate: FleetGate, planned: Planned, stats_age_s: float, given_blocks: int | None) -> None:
        self._gate, self._planned = gate, planned
        self._stats_age_s, self._given_blocks = stats_age_s, given_blocks
        self._takes: dict[str, bool] = {}
        self._offered_s: dict[str, float] = {}
        self._stats: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def offer(self, endpoints: Sequence[Offered], now_s: float) -> list[str]:
        """A request may go to these and no others; returns what was in flight at replicas that are gone."""
        for endpoint in endpoints:
            self.know(endpoint, now_s)
            self._note_stats(endpoint, now_s)
        offered = {endpoint.name for endpoint in endpoints}
        for name in self._takes:
            self._set_takes(name, name in offered, now_s)
        return [lost for name in list(self._takes) for lost in self._lost(name, now_s)]

    def know(self, endpoint: Offered, now_s: float) -> None:
        """A replica exists; where it is new, it takes requests from now on."""
        name = endpoint.name
        self._offered_s[name] = now_s
        if name not in self._takes:
            self._gate.add_replica(self._planned.replica(name, self._blocks(endpoint)), now_s)
            self._takes[name] = True

    def offers(self, name: str) -> bool:
        """Whether the request that is asked for may go to this replica."""
        return self._takes.get(name, False)

    def _set_takes(self, name: str, takes: bool, now_s: float) -> None:
        if self._takes[name] != takes:
            self._takes[name] = takes
            (self._gate.resume_replica if takes else self._gate.drain_replica)(name, now_s)

    def _lost(self, name: str, now_s: float) -> list[str]:
        if now_s - self._offered_s[name] < LOST_S:
            return []
        del self._takes[name], self._offered_s[name]
        self._stats.pop(name, None)
        return self._gate.replica_died(name, now_s)

    def _blocks(self, endpoint: Offered) -> int | None:
        """KV blocks without the null block, as the replica says in tokens; None: as planned."""
        if self._given_blocks is not None:
            return None
        blocks = blocks_of(endpoint.attributes, self._planned.block_size)
        if blocks is None:
            return None
        if abs(blocks / self._planned.total_blocks - 1.0) > SAME_SIZE:
            logger.warning(
                "fluidgate: %s has %d KV blocks of %d tokens and the plan says %d; the gate goes by what it has: "
                "plan again",
                endpoint.name,
                blocks,
                self._planned.block_size,
                self._planned.total_blocks,
            )
        return blocks

    def _note_stats(self, endpoint: Offered, now_s: float) -> None:
        """Pass on what a replica says of itself; what is missing or cannot be is left out."""
        stats = endpoint.attributes.get("routing_stats")
        if not isinstance(stats, Mapping) or stats.get("error"):
            return
        noted_s, noted = self._stats.get(endpoint.name, (-SAME_STATS_S, {}))
        if noted == stats and now_s - noted_s < SAME_STATS_S:
            return
        self._stats[endpoint.name] = (now_s, dict(stats))
        gauges = gauges_of(stats, now_s - self._stats_age_s)
        if gauges is not None:
            self._gate.note_gauges(endpoint.name, gauges, now_s)


def kv_use(endpoint: Offered) -> float:
    """The share of its KV cache that a replica says is in use; 0 where it says none."""
    stats = endpoint.attributes.get("routing_stats")
    used = stats.get("kv", 0.0) if isinstance(stats, Mapping) else 0.0
    return float(used) if isinstance(used, int | float) else 0.0


def header(headers: Mapping[str, str] | None, wanted: str) -> str | None:
    """The value of a header, whose name is given in lower case; None: there is none."""
    return next((value for name, value in (headers or {}).items() if name.lower() == wanted), None)
