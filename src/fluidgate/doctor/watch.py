"""`Watch`: servers looked at again and again, one line for each look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fluidgate.doctor.binding import Limit, binding_of
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.live import Servers
from fluidgate.doctor.pooled import pool
from fluidgate.doctor.scraped import facts_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import Address
from fluidgate.vllm_metrics.scrape import Scrape
from fluidgate.words import number, percent

BY_WEIGHT = (Limit.MEMORY, Limit.SEATS, Limit.BUDGET, Limit.UNKNOWN, Limit.GATE)
"""Where servers differ, a look names the first of these."""


@dataclass(frozen=True)
class Look:
    """What servers did between two looks, all together. None: not known yet, or no more.

    Attributes:
        taken_s: seconds since the epoch.
        servers, missed: how many answered, and how many did not.
        running, waiting: requests, over all servers, now.
        kv_low, kv_high: share of the KV cache in use of the engine that has least, and most.
        rate: arrivals, req/s.
        tokens_per_s: prompt tokens computed and tokens generated.
        preemptions: since the look before.
        limit: what keeps requests waiting.
        restarted: servers that were started again.
        still: how many computed nothing although requests run.
    """

    taken_s: float
    servers: int
    missed: int
    running: float
    waiting: float
    kv_low: float
    kv_high: float
    rate: float | None = None
    tokens_per_s: float | None = None
    preemptions: float | None = None
    limit: Limit = Limit.NONE
    restarted: tuple[str, ...] = ()
    still: int = 0


class Watch:
    """Servers over time; `look` as often as you like, then `facts`.

    Args:
        max_num_seqs, max_num_batched_tokens: limits of the servers, where the user states them.

    Attributes:
        looks: so far.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
    ) -> None:
        self.servers = Servers(addresses)
        self.looks: list[Look] = []
        self._limits = max_num_seqs, max_num_batched_tokens
        self._before: dict[tuple[str, str], Scrape] = {}

    def look(self) -> Look:
        """Look once more.

        Raises:
            InputError: no server ever answered, or a page cannot be.
        """
        came, parts, restarted = self.servers.look(), [], []
        for key, scrape in came.items():
            before = self._before.get(key)
            try:
                parts.append((before is not None, _between(before, scrape)))
            except InputError:
                parts.append((False, facts_of(scrape)))  # if the page itself is wrong, this says so
                restarted.append(scrape.where)
                self.servers.begin_again(*key)
        self._before |= came
        look = self._look(parts, came, tuple(restarted))
        self.looks.append(look)
        return look

    def facts(self) -> tuple[list[Facts], list[tuple[str, str]]]:
        """Facts of each server over all looks, and the servers that never answered, with the reason."""
        found, unread = self.servers.facts()
        return [facts for servers in found.values() for facts in servers], unread

    def _look(
        self, parts: list[tuple[bool, Facts]], came: dict[tuple[str, str], Scrape], restarted: tuple[str, ...]
    ) -> Look:
        moments = [moment for scrape in came.values() for moment in scrape.moments()]
        known = [facts for known, facts in parts if known]
        together = pool(known, "") if len(known) == len(came) > 0 else None
        taken = [scrape.taken_s for scrape in came.values() if scrape.taken_s is not None]
        seats, budget = self._limits
        limits = {
            binding_of(replace(facts, max_num_seqs=seats, max_num_batched_tokens=budget)).limit for _, facts in parts
        }
        tokens = None if together is None else together.computed_tokens
        window_s = None if together is None else together.window_s
        return Look(
            taken_s=max(taken, default=self.looks[-1].taken_s if self.looks else 0.0),
            servers=len(came),
            missed=len(self.servers.missed),
            running=sum(moment.running for moment in moments),
            waiting=sum(moment.waiting for moment in moments),
            kv_low=min((moment.kv_use for moment in moments), default=0.0),
            kv_high=max((moment.kv_use for moment in moments), default=0.0),
            rate=None if together is None else together.rate,
            tokens_per_s=tokens / window_s if tokens is not None and window_s else None,
            preemptions=None if together is None else together.preemptions,
            limit=next((limit for limit in BY_WEIGHT if limit in limits), Limit.NONE),
            restarted=restarted,
            still=sum(facts.stands_still for facts in known),
        )


def _between(before: Scrape | None, scrape: Scrape) -> Facts:
    """What a server did between two looks; its moments are those of the later one."""
    apart_s = None
    if before is not None and before.taken_s is not None and scrape.taken_s is not None:
        apart_s = scrape.taken_s - before.taken_s
    return replace(facts_of(scrape, before, apart_s), moments=scrape.moments())


def trend(looks: Sequence[Look]) -> str | None:
    """How the first third of the looks differs from the last; None with too few to tell."""
    third = len(looks) // 3
    if not third:
        return None
    first, last = looks[:third], looks[-third:]
    says = [
        f"{what} {number(fmean(getattr(look, name) for look in first))} to "
        f"{number(fmean(getattr(look, name) for look in last))}"
        for what, name in (("running", "running"), ("waiting", "waiting"))
    ]
    says.append(
        f"the fullest KV cache {percent(fmean(look.kv_high for look in first))} to "
        f"{percent(fmean(look.kv_high for look in last))}"
    )
    rates = [[look.rate for look in part if look.rate is not None] for part in (first, last)]
    if all(rates):
        says.append(f"arrivals {number(fmean(rates[0]))} to {number(fmean(rates[1]))} req/s")
    over_s = looks[-1].taken_s - looks[0].taken_s
    return f"From the first third of {len(looks)} looks in {number(over_s)} s to the last: {', '.join(says)}."
