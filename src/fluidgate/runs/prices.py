"""What a GPU costs, and so what the tokens cost that it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fluidgate.bounds import above_zero
from fluidgate.errors import InputError
from fluidgate.hardware import find_gpu


@dataclass(frozen=True)
class Prices:
    """Per GPU and hour, in the currency of the one who asks.

    Attributes:
        every: of any GPU; None: only of those that are named.
        named: by the GPU's name.
    """

    every: float | None = None
    named: tuple[tuple[str, float], ...] = ()

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.every is not None or bool(self.named)

    def per_million_tokens(self, gpu: str | None, gpus: int, output_tokens_per_s: float) -> float:
        """What a million output tokens cost that so many GPUs write; NaN without a price, or where nothing is written.

        Args:
            gpu: its name in lists; None: unknown.
        """
        price = self.every if gpu is None else dict(self.named).get(gpu, self.every)
        if price is None or not output_tokens_per_s > 0:
            return math.nan
        return price * gpus / 3600.0 / output_tokens_per_s * 1e6


def parse_prices(text: str | None) -> Prices:
    """Prices from a list with commas: `2.5`, of every GPU, or `h100=2.5`, of one.

    Raises:
        InputError: a GPU that is not known, a price that is none, or two for the same.
    """
    every: float | None = None
    named: dict[str, float] = {}
    for item in (part.strip() for part in text.split(",")) if text else ():
        gpu, equals, amount = item.rpartition("=")
        price = above_zero(amount, f"price {item!r}: write a number above 0 per GPU and hour, such as 2.5 or h100=2.5")
        if equals:
            gpu = find_gpu(gpu).name
        if gpu in named or (not equals and every is not None):
            raise InputError(f"price {item}: is the second one for {gpu or 'every GPU'}; give one")
        if equals:
            named[gpu] = price
        else:
            every = price
    return Prices(every, tuple(named.items()))
