"""`Publisher`: tells the API servers of a server where its gate stands (`serving.gate_state`)."""

from __future__ import annotations

import os
import time
from collections import deque
from math import isfinite

from fluidgate.serving.gate import Gate
from fluidgate.serving.gate_state import LONGEST_NAME, MOST_SHEDS, RECENT_SHEDS, GateState, StateWriter
from fluidgate.serving.pulse import Pulse

SECONDS_BETWEEN_WRITES = 0.25

SHED_REASON = "it could no longer be served in time"

SHED_KEPT_S = 2.0
"""For as long all that were shed are told, `MOST_SHEDS` at most, and then the last `RECENT_SHEDS`: after a pause of the
engine hundreds are late at once, and an API server that has much to do looks late."""


class Publisher:
    """Writes the state a few times a second, at once when the engine falls idle or requests are shed.

    Args:
        class_names: in the order of the policy's classes; empty: it knows one.
        boundary_per_s: the plan's stability boundary; 0: there is no plan.
    """

    def __init__(self, writer: StateWriter, class_names: tuple[str, ...], boundary_per_s: float, now_s: float) -> None:
        self._writer, self._names, self._boundary_per_s = writer, class_names or ("",), boundary_per_s
        self.pulse = Pulse(now_s)
        self._sheds: deque[tuple[float, str]] = deque(maxlen=MOST_SHEDS)
        self._shed = 0
        self._next_s = 0.0

    def shed(self, names: list[str], gate: Gate, now_s: float) -> None:
        """Say which requests were given up, before they are answered; a name of absurd length is kept back."""
        self._shed += len(names)
        while len(self._sheds) > RECENT_SHEDS and self._sheds[0][0] < now_s - SHED_KEPT_S:
            self._sheds.popleft()
        self._sheds.extend((now_s, name) for name in names if len(name) <= LONGEST_NAME)
        self._write(gate)

    def update(self, gate: Gate, now_s: float) -> None:
        """An iteration was formed."""
        self.pulse.beat(now_s, gate.books.num_waiting)
        if now_s >= self._next_s or gate.books.is_empty:
            self._next_s = now_s + SECONDS_BETWEEN_WRITES
            self._write(gate)

    def _write(self, gate: Gate) -> None:
        latest_s = gate.latest_starts_s() or (float("inf"),) * len(self._names)
        self._writer.write(
            GateState(
                policy=gate.policy.name,
                pid=os.getpid(),
                written_s=time.time(),
                running=gate.books.num_residents,
                waiting=gate.books.num_waiting,
                starts_per_s=self.pulse.starts_per_s,
                boundary_per_s=self._boundary_per_s,
                arrivals_per_s=self.pulse.arrivals_per_s,
                latest_start_s={
                    name: age_s if isfinite(age_s) else None for name, age_s in zip(self._names, latest_s, strict=True)
                },
                shed=self._shed,
                recent_sheds=[{"request_id": name, "reason": SHED_REASON} for _, name in self._sheds],
            )
        )
