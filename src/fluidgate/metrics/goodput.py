"""`Slo`: the latency a request must meet to count as good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from fluidgate.errors import InputError


@dataclass(frozen=True)
class Slo:
    """Upper bounds on a request's latencies, milliseconds; None leaves a latency free.

    Attributes:
        ttft_ms: arrival to first token.
        tpot_ms: time per output token after the first; a request of one token meets it.
        e2el_ms: arrival to last token.

    Raises:
        InputError: no bound, or one that is not a positive number.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None

    def __post_init__(self) -> None:
        bounds = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(bound is None for bound in bounds.values()):
            raise InputError(f"the SLO bounds nothing; set at least one of {', '.join(bounds)}")
        for name, bound in bounds.items():
            if bound is not None and not (math.isfinite(bound) and bound > 0):
                raise InputError(f"SLO: {name} = {bound} must be a finite number of milliseconds above 0")


def parse_goodput(items: Sequence[str]) -> Slo:
    """The SLO written as `NAME:MILLISECONDS` items, as `vllm bench serve --goodput` takes them.

    Raises:
        InputError: an item that is malformed, unknown or given twice.
    """
    names = [field.name.removesuffix("_ms") for field in fields(Slo)]
    bounds: dict[str, float] = {}
    for item in items:
        name, colon, value = item.partition(":")
        if not colon:
            raise InputError(f"goodput {item!r}: write NAME:MILLISECONDS, such as ttft:2000")
        if name not in names:
            raise InputError(f"goodput {item!r}: {name!r} is not one of {', '.join(names)}")
        if f"{name}_ms" in bounds:
            raise InputError(f"goodput {item!r}: {name} is given twice; give it once")
        try:
            bounds[f"{name}_ms"] = float(value)
        except ValueError:
            raise InputError(f"goodput {item!r}: {value!r} is not a number of milliseconds") from None
    return Slo(**bounds)
