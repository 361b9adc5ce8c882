"""`StockEngine`: a replica as a gate from outside deals with it: requests are sent to it, and their tokens are seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluidgate.arrays import IntArray
from fluidgate.engine.arrivals import hand_in
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.engines import Engines
from fluidgate.engine.records import RunRecords
from fluidgate.engine.replicas import replica_state, rows_of
from fluidgate.engine.routing import WITHOUT_LIMIT
from fluidgate.engine.run import Progress, records_of
from fluidgate.engine.seen_tokens import look_at
from fluidgate.fleet import Gauges
from fluidgate.hardware import Hardware
from fluidgate.hardware.step_grid import TABLES
from fluidgate.kernel import interpreted
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

_hand_in, _replica_state = interpreted(hand_in), interpreted(replica_state)

IN_FLIGHT_TOKENS = 2
"""Tokens of a request that may have been computed and are not seen yet."""


class StockEngine:
    """An engine of its own, whose rows are those of the whole workload.

    Attributes:
        in_flight: rows that were sent to it and are not seen to have ended.
        order: all rows that were sent to it.
        is_dead: whether it has died; it stands still then.
        no_end_before_s: nothing ends before this time, seconds, unless more is sent.
        looked_s: when its requests were looked at, seconds.
    """

    def __init__(
        self, workload: Workload, hardware: Hardware, config: EngineConfig | None, progress: Progress | None
    ) -> None:
        self.engines = Engines(
            workload, hardware, Greedy(), config, 1, compile=True, progress=progress, sent_later=True
        )
        self.state, self.cache = self.engines.engine(0)
        self._arguments = self.engines.log, *self.engines.quick_arguments(), self.engines.memories[0]
        self._look_at: Callable[..., int] = interpreted(look_at) if self.engines.program.is_interpreted else look_at
        self.in_flight = np.zeros(0, np.int64)
        self.order: list[int] = []
        self.is_dead = False
        self.no_end_before_s, self.looked_s = np.inf, -np.inf
        self._least_step_s = hardware.step_time.c0 if hardware.grid is None else 0.0

    def send(self, row: int, time_s: float) -> None:
        """Send it a request."""
        self.state.arrival_s[row] = time_s
        _hand_in(self.state, row)
        self.in_flight = np.append(self.in_flight, row)
        self.order.append(row)
        least_s = max(0, int(self.state.output_tokens[row]) - IN_FLIGHT_TOKENS) * self._least_step_s
        self.no_end_before_s = min(self.no_end_before_s, time_s + least_s)

    def advance(self, time_s: float) -> None:
        """Run up to a time."""
        if len(self.in_flight) and self.state.run[0].now_s < time_s:
            self.engines.program.run_loop(self.state, self.cache, *self._arguments, WITHOUT_LIMIT, time_s)

    def look(self, time_s: float) -> tuple[IntArray, IntArray, IntArray]:
        """What is seen of its requests at a time: (rows that have ended, the others, their tokens)."""
        self.advance(time_s)
        self.looked_s = time_s
        tokens, fewest = self._seen(time_s)
        self.no_end_before_s = time_s + max(0, fewest - IN_FLIGHT_TOKENS) * self._least_step_s
        ended = self.in_flight[tokens < 0]
        self.in_flight = self.in_flight[tokens >= 0]
        return ended, self.in_flight, tokens[tokens >= 0]

    def die(self, time_s: float) -> dict[int, int]:
        """It is gone; returns the requests that were in flight, with the tokens that were seen of each."""
        self.advance(time_s)
        self.is_dead = True
        tokens, _ = self._seen(time_s)
        lost, self.in_flight = self.in_flight, self.in_flight[:0]
        return dict(zip(lost.tolist(), tokens.tolist(), strict=True))

    def _seen(self, time_s: float) -> tuple[IntArray, int]:
        tokens = np.zeros(len(self.in_flight), np.int64)
        return tokens, self._look_at(self.state, self.in_flight, time_s, tokens)

    def gauges(self, time_s: float) -> Gauges:
        """What its `/metrics` says."""
        self.advance(time_s)
        run, setting = self.state.run[0], self.state.setting[0]
        waiting, row = int(run.waiting), int(run.next_arrival)
        while row < len(self.state.arrival_s):  # sent during the iteration that is under way
            waiting += 1
            row = int(self.state.rows[row].following)
        use = 1.0 - float(self.cache.free[0]) / float(setting.total_blocks)
        return Gauges(waiting, int(run.running), use, int(run.preemptions), time_s)

    def slow(self, factor: float, time_s: float) -> None:
        """Let iterations take so many times as long as before."""
        self.advance(time_s)
        setting = self.state.setting[0]
        for name in ("c0", "c_tok", "c_kv", "c_attn", "c_seq"):
            setattr(setting, name, float(getattr(setting, name)) * factor)
        self.state = self.state._replace(**{name: getattr(self.state, name) * factor for name in TABLES})
        self._least_step_s *= factor
        self.no_end_before_s = 0.0

    def records_of(self, rows: IntArray) -> RunRecords | None:
        """What it did for some of the requests that were sent to it; None: there are none."""
        if len(rows) == 0:
            return None
        engines, state = self.engines, self.engines.settled()
        part = engines.workload.reordered(rows, state.arrival_s[rows]).as_open_loop()
        about = engines.hardware, engines.config, engines.policy
        return records_of(part, *about, rows_of(_replica_state(state, 0), rows), steps=None, stalled=False)
