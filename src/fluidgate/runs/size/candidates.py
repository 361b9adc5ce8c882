"""What can be rented and how it can be set: machines, flags, and replicas of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import ne
from typing import Any

from fluidgate.bounds import MAX_GPUS, check_whole
from fluidgate.engine import EngineConfig, Fleet
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, find_gpu, find_model, get_hardware
from fluidgate.words import listed


@dataclass(frozen=True)
class Machine:
    """One replica's GPUs, with the model on them.

    Attributes:
        gpu: name of the GPU.
        tp: how many of them serve one replica.
        hardware: step time and KV cache; None where the model does not go on them.
        why_not: the reason then.
        price: of one GPU, per hour, in the currency of the one who asks; None: not given.
    """

    gpu: str
    tp: int
    hardware: Hardware | None
    why_not: str = ""
    price: float | None = None

    @property
    def label(self) -> str:
        """For tables."""
        return self.gpu if self.tp == 1 else f"{self.gpu} × {self.tp}"

    @property
    def unit_cost(self) -> float:
        """Of one replica: money per hour, or GPUs where no price is given."""
        return self.tp * (1.0 if self.price is None else self.price)


@dataclass(frozen=True)
class Flags:
    """What is set on every replica, and in front of them; None leaves it to the server.

    Attributes:
        policy: a spec as `make_policy` takes it; what it leaves out comes from the plan of one replica.
        router: in front of the replicas.
        max_num_seqs, max_num_batched_tokens: as in `EngineConfig`.
    """

    policy: str = "greedy"
    router: str = Fleet.router
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None

    def engine(self, config: EngineConfig) -> EngineConfig:
        """`config` with these limits where they are set."""
        return replace(
            config,
            max_num_seqs=self.max_num_seqs or config.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or config.max_num_batched_tokens,
        )

    @property
    def words(self) -> str:
        """For tables: the policy, and what differs from the usual router and the server's own limits."""
        router = [] if self.router == Fleet.router else [f"router {self.router}"]
        seats = [] if self.max_num_seqs is None else [f"{self.max_num_seqs} seats"]
        budget = [] if self.max_num_batched_tokens is None else [f"{self.max_num_batched_tokens:,} tokens a step"]
        return ", ".join([self.policy, *router, *seats, *budget])


@dataclass(frozen=True)
class Choices:
    """The settings that are tried, in order of preference: what comes first is the one to have if it is enough.

    Attributes:
        policies, routers: at least one each.
        seats, budgets: of a replica, besides what the server sets by itself; larger ones than that are left out.
    """

    policies: tuple[str, ...] = ("greedy", "watermark", "fluid")
    routers: tuple[str, ...] = (Fleet.router,)
    seats: tuple[int, ...] = (256,)
    budgets: tuple[int, ...] = (2048,)

    def __post_init__(self) -> None:
        for what in ("policies", "routers"):
            given: tuple[str, ...] = getattr(self, what)
            if not given:
                raise InputError(f"size needs at least one of {what}")
            if len(set(given)) < len(given):
                raise InputError(f"one of the {what} is named twice in {', '.join(given)}")
        for router in self.routers:
            Fleet(router=router)
        for what, name in (("seats", "--try-seats"), ("budgets", "--try-budgets")):
            for value in getattr(self, what):
                check_whole(name, value)

    def flags(self, hardware: Hardware, config: EngineConfig, replicas: int) -> tuple[Flags, ...]:
        """All combinations that differ on this machine, those with the fewest changes first."""
        own = config.on(hardware)
        seats = [None, *(n for n in self.seats if n < own.seats)]
        budget = own.max_num_batched_tokens or math.inf
        budgets = [None, *(n for n in self.budgets if n < budget)]
        routers = self.routers if replicas > 1 else (Fleet.router,)  # nothing to choose before one replica
        firsts = (self.policies[0], routers[0], None, None)
        combined = product(self.policies, routers, seats, budgets)
        by_changes = sorted(combined, key=lambda chosen: sum(map(ne, chosen, firsts)))
        return tuple(Flags(*chosen) for chosen in by_changes)


def machines_of(
    model: str | None,
    gpus: Sequence[str],
    tps: Sequence[int],
    prices: Mapping[str, float] | None = None,
    **serving: Any,
) -> tuple[Machine, ...]:
    """Every GPU with every number of them once, in order; those that the model does not go on say why.

    Args:
        prices: per GPU-hour, by the GPU's name as given or as known; None: count GPUs instead.
        serving: further arguments of `get_hardware`, the same for all.

    Raises:
        InputError: an unknown GPU or model, a GPU without a price where others have one, a price that is none, or a
            model that goes on none of them.
    """
    if not gpus or not tps:
        raise InputError("size needs at least one GPU and one number of them per replica")
    for tp in tps:
        check_whole("tp", tp, 1, MAX_GPUS)
    sheets: dict[str, str] = {}
    for gpu in gpus:
        known = find_gpu(gpu)
        if find_gpu(sheets.setdefault(known.name, gpu)) != known:
            raise InputError(f"{gpu}: is another data sheet of {known.name}, which is given already; name it otherwise")
    by_name = _prices(prices or {}, sheets)
    if serving.get("config") is None and model is not None:
        find_model(model)
    sizes = dict.fromkeys(tps)
    made = [_machine(model, gpu, name, tp, by_name.get(name), serving) for name, gpu in sheets.items() for tp in sizes]
    if all(machine.hardware is None for machine in made):
        raise InputError(f"the model goes on none of these machines: {made[0].label}: {made[0].why_not}")
    return tuple(made)


def _prices(given: Mapping[str, float], sheets: Mapping[str, str]) -> dict[str, float]:
    prices = {find_gpu(gpu).name: price for gpu, price in given.items()}
    if len(prices) < len(given):
        raise InputError(f"one of {', '.join(given)} is another name of another: give each GPU one price")
    for name, price in prices.items():
        if not (math.isfinite(price) and price > 0):
            raise InputError(f"price of {name} = {price} must be a finite number above 0, per GPU and hour")
        if name not in sheets:
            raise InputError(f"{name} has a price and is not among the GPUs ({', '.join(sheets)}); add it, or leave it")
    missing = [name for name in sheets if name not in prices]
    if prices and missing:
        raise InputError(f"no price for {listed(missing)}: costs cannot be compared; give each GPU one, or none")
    return prices


def _machine(
    model: str | None, gpu: str, name: str, tp: int, price: float | None, serving: Mapping[str, Any]
) -> Machine:
    try:
        return Machine(name, tp, get_hardware(model, gpu, tp=tp, **serving), price=price)
    except InputError as reason:
        return Machine(name, tp, None, str(reason), price)
