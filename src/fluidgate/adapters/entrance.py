"""`Entrance`: a `FleetGate` on an event loop. Requests wait in it until they may go, and it keeps the books of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import assert_never

from fluidgate.fleet import Admit, FleetGate, FleetState, Gauges, Refuse, Replica, Wait

SECONDS_BETWEEN_LOOKS = 0.25
"""While requests wait, the gate is asked at least so often whether one may go."""


_named: dict[str, Entrance] = {}


def entrances() -> Mapping[str, Entrance]:
    """The gates of this process that have a name, for tests and for metrics of your own."""
    return _named


def give_name(entrance: Entrance, name: str) -> None:
    """Let `entrances` show a gate by this name; another of that name is forgotten."""
    _named[name] = entrance


class Refused(Exception):
    """A request is not taken: it could not be served in time, or no replica ever holds it (then infinitely later)."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        again = "no replica holds so long a prompt"
        if retry_after_s < inf:
            again = f"come again in {ceil(retry_after_s)} s"
        super().__init__(f"fluidgate refuses the request: {again}")


@dataclass
class Ledger:
    """What became of requests since the start: came = waiting + in flight + served + failed + left + refused."""

    came: int = 0
    served: int = 0
    failed: int = 0
    left: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Books:
    """What an entrance says of itself at one time: its ledger, how many requests are in flight, its gate's state."""

    ledger: Ledger
    in_flight: int
    state: FleetState


class Entrance:
    """One gate, in one event loop. A request has one name from `enter` to its end.

    Args:
        gate: which decides; its replicas are added here.
        clock: seconds of a clock that never jumps.
        ends_are_told: what was in flight at a replica that is lost ends by `end`, `fail` or `leave` all the same, as
            answers may be on their way still; otherwise it has failed at once.

    Attributes:
        ledger: the requests that have come, by what became of them.
        retried: those among the failed that their router has tried again, where it says so; each has come again.
        in_flight: the replica of each request that was let in and has not ended.
    """

    def __init__(
        self, gate: FleetGate, clock: Callable[[], float] = time.monotonic, *, ends_are_told: bool = False
    ) -> None:
        self._gate, self._clock, self._ends_are_told = gate, clock, ends_are_told
        self._adrift: set[str] = set()  # in flight at a replica that is lost: the gate knows them no more
        self.ledger, self.retried = Ledger(), 0
        self.in_flight: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._takes: dict[str, bool] = {}
        self._looker: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # Requests

    async def enter(
        self,
        name: str,
        prompt_tokens: int,
        class_id: int = 0,
        *,
        timeout_s: float = inf,
        prefix: str = "",
        again: bool = False,
    ) -> str:
        """Wait until a request may go, and return its replica. Whoever stops waiting leaves the queue.

        Args:
            again: it was let in before, and failed there without an answer: it goes first.

        Raises:
            Refused: it is not taken.
            InputError: a request of this name is here already.
        """
        answer = self._gate.arrive(
            name, prompt_tokens, class_id, now_s=self._clock(), timeout_s=timeout_s, prefix=prefix, again=again
        )
        self.ledger.came += 1
        if not isinstance(answer, Wait):
            return self._answered(name, answer)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        self._keep_looking()
        try:
            return await future
        except asyncio.CancelledError:
            self.leave(name)
            raise

    def note_tokens(self, name: str, generated: int) -> None:
        """A request has so many tokens by now."""
        if name in self.in_flight and name not in self._adrift:
            self._gate.note_tokens(name, generated, self._clock())

    def end(self, name: str, generated: int | None = None) -> None:
        """A request has all its tokens: so many, or as many as were seen. Nothing happens where it has ended before."""
        if self.in_flight.pop(name, None) is not None:
            self.ledger.served += 1
            if name in self._adrift:
                self._adrift.discard(name)
            else:
                self._gate.note_end(name, self._clock(), generated)
            self.release()

    def fail(self, name: str) -> None:
        """A request has failed at its replica. Nothing happens where it has ended before."""
        if self.in_flight.pop(name, None) is not None:
            self.ledger.failed += 1
            self._forget(name)

    def turn_back(self, name: str) -> None:
        """A replica did not take a request that was sent to it: it has not come yet."""
        if self.in_flight.pop(name, None) is not None:
            self.ledger.came -= 1
            self._forget(name)

    def leave(self, name: str) -> None:
        """The client of a request has gone, wherever the request was."""
        if self._waiting.pop(name, None) is None and self.in_flight.pop(name, None) is None:
            return
        self.ledger.left += 1
        self._forget(name)

    def _forget(self, name: str) -> None:
        if name in self._adrift:
            self._adrift.discard(name)
        else:
            self._gate.note_failure(name, self._clock())
        self.release()

    # Replicas

    def add(self, replica: Replica) -> None:
        """A replica takes requests from now on; one that was lost begins anew."""
        with suppress(RuntimeError):  # there may be none yet
            self._loop = asyncio.get_running_loop()
        self._gate.add_replica(replica, self._clock())
        self._takes[replica.name] = True
        self.release()

    def resize(self, replica: str, total_blocks: int) -> None:
        """A replica says that it has so many KV blocks, the null block not counted."""
        if replica in self._takes:
            self._gate.resize_replica(replica, total_blocks)
            self.release()

    def lose(self, replica: str, not_taken: Collection[str] = ()) -> None:
        """A replica is gone, and what was in flight there has failed or is told of, but for what it had not taken."""
        if replica not in self._takes:
            return
        del self._takes[replica]
        for name in self._gate.replica_died(replica, self._clock()):
            if name in not_taken:
                del self.in_flight[name]
                self.ledger.came -= 1
            elif self._ends_are_told:
                self._adrift.add(name)
            else:
                del self.in_flight[name]
                self.ledger.failed += 1
        self.release()

    def suspend(self, replica: str) -> None:
        """A replica gets no more requests until `resume`, as after a failure that may be its own."""
        self._set_takes(replica, False)

    def resume(self, replica: str) -> None:
        """A replica that was suspended answers again."""
        self._set_takes(replica, True)
        self.release()

    def _set_takes(self, replica: str, takes: bool) -> None:
        if self._takes.get(replica, takes) != takes:
            self._takes[replica] = takes
            change = self._gate.resume_replica if takes else self._gate.drain_replica
            change(replica, self._clock())

    @property
    def replicas(self) -> Collection[str]:
        """Those that have been added and not lost."""
        return self._takes.keys()

    def note_gauges(self, replica: str, gauges: Gauges) -> None:
        """Gauges of a replica, measured at `gauges.measured_s` of this entrance's clock."""
        if replica in self._takes:
            self._gate.note_gauges(replica, gauges, self._clock())
            self.release()

    # Time

    def release(self) -> None:
        """Let those go that need not wait any more."""
        for name, answer in self._gate.released(self._clock()) if self._waiting else ():
            future = self._waiting.pop(name)
            try:
                replica = self._answered(name, answer)
            except Refused as refused:
                if not future.done():
                    future.set_exception(refused)
                continue
            if not future.done():
                future.set_result(replica)

    def _answered(self, name: str, answer: Admit | Refuse) -> str:
        match answer:
            case Admit(replica):
                self.in_flight[name] = replica
                return replica
            case Refuse(retry_after_s):
                self.ledger.refused += 1
                raise Refused(retry_after_s)
            case _:
                assert_never(answer)

    def _keep_looking(self) -> None:
        if self._looker is None or self._looker.done():
            self._looker = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            self.release()

    @property
    def now_s(self) -> float:
        """By its clock."""
        return self._clock()

    async def books(self) -> Books:
        """The books, all of one moment; from any event loop, on any thread."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return await self._books()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._books(), self._loop))

    async def _books(self) -> Books:
        return Books(replace(self.ledger), len(self.in_flight), self.state())

    def state(self) -> FleetState:
        """What the gate knows now."""
        return self._gate.state(self._clock())
