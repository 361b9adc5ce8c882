"""What a gate outside of the engines is told of a replica, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

from fluidgate.bounds import MAX_COUNT, check_name, check_number, check_whole
from fluidgate.errors import InputError


@dataclass(frozen=True)
class Replica:
    """An engine, and what it says at its start.

    Attributes:
        name: by which `Admit` names it.
        total_blocks: KV blocks, the null block not counted. A model whose layers forget has as many as requests that
            keep every token would need for the same load (`fluidgate.fluid.plain_blocks`).
        block_size: tokens of a block.
        max_num_seqs: seats.
        token_budget: tokens of an iteration.
    """

    name: str
    total_blocks: int
    block_size: int = 16
    max_num_seqs: int = 256
    token_budget: int = 2048

    def __post_init__(self) -> None:
        check_name("name", self.name)
        for what in ("total_blocks", "block_size", "max_num_seqs", "token_budget"):
            check_whole(what, getattr(self, what), 1, MAX_COUNT)


@dataclass(frozen=True)
class Gauges:
    """What a server's `/metrics` said at `measured_s`, seconds on the gate's clock.

    Attributes:
        waiting, running: requests, of all its clients.
        kv_use: share of its KV blocks in use, from 0 to 1.
        preemptions: since its start; NaN where the server counts none.
    """

    waiting: float
    running: float
    kv_use: float
    preemptions: float = nan
    measured_s: float = 0.0

    def __post_init__(self) -> None:
        for what in ("waiting", "running", "preemptions"):
            value = getattr(self, what)
            if not (value >= 0 or (what == "preemptions" and isnan(value))):
                raise InputError(f"{what} = {value} of a replica must be at least 0; leave such gauges out")
        check_number("kv_use", self.kv_use, 0.0, 1.0, "of the KV cache")


@dataclass(frozen=True)
class Admit:
    """Send it there now."""

    replica: str


@dataclass(frozen=True)
class Wait:
    """It waits at the gate, for `expected_s` seconds from now (NaN: nothing to tell it from yet)."""

    expected_s: float


@dataclass(frozen=True)
class Refuse:
    """It is not taken: it could not be served in time. It may be worth asking again in `retry_after_s` seconds."""

    retry_after_s: float


Answer = Admit | Wait | Refuse


@dataclass(frozen=True)
class ReplicaState:
    """What the gate knows of a replica.

    Attributes:
        takes: whether it is sent requests.
        in_flight: requests that this gate has sent there.
        kv_share: what they hold of its KV cache by the gate's books.
        peak_share: the largest share that the forecast expects, of theirs and of others', with its margin.
        others: requests of others there, as far as gauges and gates tell.
        pace_s: of an iteration, seconds; 0: not known yet.
        gauge_age_s: seconds since the latest gauges were measured; NaN: none came.
    """

    name: str
    takes: bool
    in_flight: int
    kv_share: float
    peak_share: float
    others: float
    pace_s: float
    gauge_age_s: float


@dataclass(frozen=True)
class FleetState:
    """What the gate knows: how many wait, how long one that comes now will (s, NaN: unknown), and its replicas."""

    waiting: int
    expected_s: float
    replicas: tuple[ReplicaState, ...]
