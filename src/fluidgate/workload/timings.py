"""`Timings` and `MeasuredRun`: when the requests of a run were served, as their client saw it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.workload.core import Workload


@dataclass(frozen=True, eq=False)
class Timings:
    """What a client of n requests saw; arrays of shape (n,), seconds, in order of arrival.

    Attributes:
        arrival_s: when each request was sent.
        first_token_s, last_token_s: when its first and its last token came.
        output_tokens: how many came.
        first_scheduled_s: when it first entered a batch; None where only the client was asked.
        gaps_s: times between its tokens, one array a request, of `output_tokens` − 1 values where each token came on
            its own; None where they were not kept.
    """

    arrival_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    output_tokens: IntArray
    first_scheduled_s: FloatArray | None = None
    gaps_s: tuple[FloatArray, ...] | None = None

    @property
    def latencies_s(self) -> dict[str, FloatArray]:
        """TTFT, TPOT and E2E latency of every request; TPOT is NaN with one token."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return {
            "TTFT": self.first_token_s - self.arrival_s,
            "TPOT": (self.last_token_s - self.first_token_s) / gaps,
            "E2E": self.last_token_s - self.arrival_s,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredRun:
    """A run on a real server.

    Attributes:
        workload: the requests as the client offered them, in a closed loop with its concurrency, with the lengths that
            came back.
        timings: of these requests.
        name: file, and run within it.
        max_concurrency: the client's limit on requests in flight, which makes the load a closed loop; None: no limit.
        note: what was read, kept and left out.
    """

    workload: Workload
    timings: Timings
    name: str = ""
    max_concurrency: int | None = None
    note: str = ""
