"""How long clients wait: one time for all, or a law from which every client draws its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import shown
from fluidgate.workload._random import random_streams
from fluidgate.workload.core import TIMEOUTS, Workload

Draw = Callable[[np.random.Generator, int], FloatArray]

LAWS: dict[str, tuple[int, Callable[..., Draw]]] = {
    "": (1, lambda seconds: lambda rng, n: np.full(n, seconds)),
    "exp": (1, lambda mean: lambda rng, n: mean * rng.standard_exponential(n)),
    "lognormal": (2, lambda median, sigma: lambda rng, n: median * np.exp(sigma * rng.standard_normal(n))),
}
"""By name: how many numbers a law has, and how it draws."""

WIDEST_SIGMA = 10.0
SHORTEST_S = 1e-9


@dataclass(frozen=True)
class TimeoutLaw:
    """A law of timeouts.

    Attributes:
        name: a key of `LAWS`; empty: the same for all.
        numbers: seconds (the same for all), mean seconds (`exp`), or median seconds and the standard deviation of the
            logarithm (`lognormal`).
    """

    name: str
    numbers: tuple[float, ...]

    def __post_init__(self) -> None:
        known = self.name in LAWS and len(self.numbers) == LAWS[self.name][0]
        if not known or not all(0 < number <= MAX_SECONDS for number in self.numbers):
            raise InputError(f"timeout {self}: {HOW_TO_WRITE}")
        if self.name == "lognormal" and self.numbers[1] > WIDEST_SIGMA:
            raise InputError(f"timeout {self}: sigma must be at most {WIDEST_SIGMA:g}")

    def __str__(self) -> str:
        return ":".join([*filter(None, [self.name]), *(f"{number:g}" for number in self.numbers)])

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """`n` timeouts, shape (n,), seconds."""
        return np.maximum(LAWS[self.name][1](*self.numbers)(rng, n), SHORTEST_S)

    def quantiles(self, shares: FloatArray) -> FloatArray:
        """The timeouts that these shares of the clients do not exceed, seconds; shares between 0 and 1."""
        from scipy.special import ndtri

        if self.name == "exp":
            return np.asarray(-self.numbers[0] * np.log1p(-shares))
        if self.name == "lognormal":
            return np.asarray(self.numbers[0] * np.exp(self.numbers[1] * ndtri(shares)))
        return np.full(len(shares), self.numbers[0])

    def longer(self, seconds: FloatArray) -> FloatArray:
        """The shares of the clients that wait at least so many seconds, at least 0."""
        from scipy.special import ndtr

        if self.name == "exp":
            return np.asarray(np.exp(-seconds / self.numbers[0]))
        if self.name == "lognormal":
            with np.errstate(divide="ignore"):
                return np.asarray(ndtr(-np.log(seconds / self.numbers[0]) / self.numbers[1]))
        return (seconds <= self.numbers[0]).astype(np.float64)


HOW_TO_WRITE = "write seconds above 0, exp:MEAN or lognormal:MEDIAN:SIGMA, such as 300, exp:300 or lognormal:300:0.5"


def parse_timeout(option: str, text: str | None) -> TimeoutLaw | None:
    """The law written as `SECONDS`, `exp:MEAN` or `lognormal:MEDIAN:SIGMA`; None for None.

    Raises:
        InputError: anything else; the sentence names `option`.
    """
    if text is None:
        return None
    name, *numbers = text.split(":") if text.partition(":")[0] in LAWS else ("", *text.split(":"))
    try:
        return TimeoutLaw(name, tuple(map(float, numbers)))
    except (ValueError, InputError):
        raise InputError(f"{option} {shown(text)}: {HOW_TO_WRITE}") from None


@dataclass(frozen=True)
class Patience:
    """How long clients wait for their last token and for their first; None: as the workload says.

    Attributes:
        timeout: from sending to the last token.
        ttft_timeout: from sending to the first token.
    """

    timeout: TimeoutLaw | None = None
    ttft_timeout: TimeoutLaw | None = None

    def of(self, workload: Workload, seed: int) -> Workload:
        """The workload with clients of this patience, in place of what it says itself; same seed, same bits.

        A client's patience does not depend on when it arrives or what it asks for: its random streams are others than
        those of `generate`.
        """
        streams = random_streams(seed, 5)[3:]
        drawn: dict[str, Any] = {
            name: law.sample(len(workload), np.random.default_rng(stream))
            for name, law, stream in zip(TIMEOUTS, (self.timeout, self.ttft_timeout), streams, strict=True)
            if law is not None
        }
        return replace(workload, **drawn)
