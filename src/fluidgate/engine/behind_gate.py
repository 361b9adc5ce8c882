"""`run_behind_gate`: stock engines behind gates that see what a proxy sees: streams, ends, and gauges that are late.

Time goes from event to event: an arrival, gauges, a change of the fleet, and, while requests wait, the reaction time of
the gates. Gates learn of an end within their reaction time, and of tokens four times a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fluidgate.arrays import NONE
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.layout import RUN, State, records
from fluidgate.engine.outside import GateRecords, Outside
from fluidgate.engine.replicas import COLUMNS
from fluidgate.engine.run import Progress, records_of
from fluidgate.engine.stock_engine import StockEngine
from fluidgate.errors import InputError
from fluidgate.fleet import Admit, Answer, FleetGate, Gauges, Refuse, Replica
from fluidgate.fluid import plain_blocks
from fluidgate.hardware import Hardware
from fluidgate.policies import Fluid
from fluidgate.workload import Workload

TOLD_S = 0.25
"""How often gates are told of tokens: as often as they forecast anew."""


def run_behind_gate(
    workload: Workload,
    hardware: Hardware | Sequence[Hardware],
    policy: Fluid,
    outside: Outside,
    config: EngineConfig | None = None,
    *,
    progress: Progress | None = None,
) -> GateRecords:
    """Simulate `workload` on stock engines behind gates.

    Args:
        hardware: that of all replicas, or of each.
        policy: what the gates begin with.

    Raises:
        InputError: as `run` does; also clients that give up or wait for replies.
    """
    if workload.is_closed or workload.gives_up:
        raise InputError(
            f"{workload.name}: behind a gate from outside only open loops of clients that stay are simulated; give "
            "arrivals, and no timeouts"
        )
    each = [hardware] * outside.replicas if isinstance(hardware, Hardware) else list(hardware)
    if len(each) != outside.replicas:
        raise InputError(f"there are {outside.replicas} replicas and hardware for {len(each)}; give one for each")
    return _Run(workload, each, policy, outside, config, progress).records()


class _Run:
    """One run, event by event."""

    def __init__(
        self,
        workload: Workload,
        hardware: Sequence[Hardware],
        policy: Fluid,
        outside: Outside,
        config: EngineConfig | None,
        progress: Progress | None,
    ) -> None:
        self.outside, self.hardware = outside, hardware
        self.engines = [StockEngine(workload, machine, config, progress) for machine in hardware]
        self.workload = workload = self.engines[0].engines.workload
        late = {change.replica for change in outside.changes if change.kind == "joins"}
        first = [self._limits(k) for k in range(outside.replicas) if k not in late]
        self.gates = [
            FleetGate(first, policy, gates=outside.gates, affinity_loss=outside.affinity_loss or 0.0)
            for _ in range(outside.gates)
        ]
        n = len(workload)
        self.replica, self.attempts = np.full(n, NONE, np.int64), np.zeros(n, np.int64)
        self.sent_s = np.full(n, np.nan)
        self.lost, self.refused = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.received = np.zeros(n, np.int64)  # tokens of those that were lost
        self.changes = deque(sorted(outside.changes, key=lambda change: change.time_s))
        self.late: deque[tuple[float, int, Gauges]] = deque()  # gauges on their way
        self.measure_s = 0.0
        self.number = np.zeros(n, np.int64)  # of each request at its gate
        self.common_blocks = _common_blocks(workload)
        self.has_ended = np.zeros(n, np.bool_)
        self.ended = 0

    def _limits(self, k: int) -> Replica:
        hardware, config = self.hardware[k], self.engines[k].engines.config
        blocks = plain_blocks(self.engines[k].engines.workload, hardware) - 1
        return Replica(str(k), blocks, hardware.block_size, config.seats, config.max_num_batched_tokens or 1)

    def gate_of(self, row: int) -> FleetGate:
        return self.gates[row % len(self.gates)]

    def serve(self) -> None:
        """Until every request has ended, or was lost or refused."""
        arrival_s = self.workload.arrival_s
        n, arrived, time_s = len(arrival_s), 0, 0.0
        while self.ended < n:
            time_s = self._next_s(time_s, float(arrival_s[arrived]) if arrived < n else np.inf)
            self._observe(time_s)
            self._change(time_s)
            self._measure(time_s)
            while arrived < n and arrival_s[arrived] <= time_s:
                self._arrive(arrived, time_s, again=False)
                arrived += 1
            for gate in self.gates:
                for name, answer in gate.released(time_s):
                    self._act(int(name), answer, time_s)
            if all(engine.is_dead for engine in self.engines):
                self.lost[~self.has_ended] = True
                return

    def _next_s(self, time_s: float, arrival_s: float) -> float:
        """The next event; while requests wait, no later than an end may be acted on."""
        ahead = [arrival_s, self.measure_s]
        if self.changes:
            ahead.append(self.changes[0].time_s)
        if self.late:
            ahead.append(self.late[0][0])
        if any(gate.waiting for gate in self.gates):
            end_s = min((engine.no_end_before_s for engine in self.engines if len(engine.in_flight)), default=np.inf)
            ahead.append(max(end_s, time_s + self.outside.reaction_s))
        return max(time_s, min(ahead))

    def _observe(self, time_s: float) -> None:
        """Tell the gates of the ends at engines, and now and then of tokens; where nothing can end, no engine runs."""
        for engine in self.engines:
            quiet = time_s < engine.no_end_before_s and time_s < engine.looked_s + TOLD_S
            if engine.is_dead or not len(engine.in_flight) or quiet:
                continue
            ended, rows, tokens = engine.look(time_s)
            for row in ended.tolist():
                self._end(row)
                self.gate_of(row).note_end(str(row), time_s, int(self.workload.output_tokens[row]))
            if self.outside.streams:
                rows, tokens = rows[tokens > 0], tokens[tokens > 0]
                for g, gate in enumerate(self.gates):
                    own = slice(None) if len(self.gates) == 1 else rows % len(self.gates) == g
                    gate.note_tokens_of(self.number[rows[own]], tokens[own], time_s)

    def _measure(self, time_s: float) -> None:
        """Measure gauges that come later, and hand over those that come now."""
        outside = self.outside
        if time_s >= self.measure_s:
            self.measure_s += outside.gauge_interval_s
            begin_s, end_s = outside.gauges_stop_s or (np.inf, np.inf)
            if outside.gauge_age_s is not None and not begin_s <= time_s < end_s:
                self.late += [
                    (time_s + outside.gauge_age_s, k, engine.gauges(time_s))
                    for k, engine in enumerate(self.engines)
                    if not engine.is_dead
                ]
        while self.late and self.late[0][0] <= time_s:
            _, k, gauges = self.late.popleft()
            for gate in self.gates:
                if str(k) in gate.books.replica_at and not self.engines[k].is_dead:
                    gate.note_gauges(str(k), gauges, time_s)

    def _change(self, time_s: float) -> None:
        while self.changes and self.changes[0].time_s <= time_s:
            change = self.changes.popleft()
            if change.kind == "slows":
                self.engines[change.replica].slow(change.factor, time_s)
            elif change.kind == "joins":
                for gate in self.gates:
                    gate.add_replica(self._limits(change.replica), time_s)
            else:
                self._lose(change.replica, time_s)

    def _lose(self, k: int, time_s: float) -> None:
        """Send again what a dead replica had in flight, or report it."""
        seen = self.engines[k].die(time_s)
        for gate in self.gates:
            names = gate.replica_died(str(k), time_s)
            for row in sorted(map(int, names), reverse=True):  # each goes before all that wait
                if self.outside.retry == "all" or (self.outside.retry == "unstarted" and seen[row] == 0):
                    self._arrive(row, time_s, again=True)
                else:
                    self.lost[row], self.received[row] = True, seen[row]
                    self._end(row)

    def _arrive(self, row: int, time_s: float, *, again: bool) -> None:
        gate, load = self.gate_of(row), self.workload
        lengths = int(load.prompt_tokens[row]), int(load.class_id[row])
        answer = gate.arrive(str(row), *lengths, now_s=time_s, prefix=self._prefix(row), again=again)
        if not isinstance(answer, Refuse):
            self.number[row] = gate.row_of(str(row))
        self._act(row, answer, time_s)

    def _end(self, row: int) -> None:
        """Count a request that is served, lost or refused."""
        if self.has_ended[row]:
            raise RuntimeError(f"request {row} has ended twice")
        self.has_ended[row] = True
        self.ended += 1

    def _prefix(self, row: int) -> str:
        """The content of a prompt's first block that not all begin with, where that is known and matters."""
        first, end = self.workload.prefix_offsets[row : row + 2].tolist()
        matters = self.outside.affinity_loss is not None and end - first > self.common_blocks
        return str(self.workload.prefix_ids[first + self.common_blocks]) if matters else ""

    def _act(self, row: int, answer: Answer, time_s: float) -> None:
        if isinstance(answer, Refuse):
            self.refused[row] = True
            self._end(row)
        elif isinstance(answer, Admit):
            self._send(row, int(answer.replica), time_s)

    def _send(self, row: int, k: int, time_s: float) -> None:
        self.engines[k].send(row, time_s)
        self.replica[row], self.sent_s[row] = k, time_s
        self.attempts[row] += 1

    def records(self) -> GateRecords:
        """Serve all, and read off what the engines did."""
        self.serve()
        parts = [engine.engines.settled() for engine in self.engines]
        first = self.engines[0].engines
        about = first.hardware, first.config, first.policy
        whole = parts[0]._replace(**_totals(parts), **self._columns(parts))
        served = [np.array(engine.order, np.int64) for engine in self.engines]
        last = [rows[self.replica[rows] == k] for k, rows in enumerate(served)]
        return GateRecords(
            **(vars(records_of(self.workload, *about, whole, steps=None, stalled=False)) | {"policy": "fluid"}),
            router="gate",
            replica=self.replica,
            runs=tuple(engine.records_of(rows) for engine, rows in zip(self.engines, last, strict=True)),
            sent_s=self.sent_s,
            attempts=self.attempts,
            lost=self.lost,
            refused=self.refused,
        )

    def _columns(self, parts: Sequence[State]) -> dict[str, Any]:
        """By request, what the replica did that had it last; evictions and recomputation of all that had it."""
        columns = {name: getattr(parts[0], name).copy() for name in COLUMNS}
        for k, part in enumerate(parts):
            mine = self.replica == k
            for name in COLUMNS:
                columns[name][mine] = getattr(part, name)[mine]
        for name in ("preemptions", "recomputed_tokens"):
            columns[name] = np.sum([getattr(part, name) for part in parts], axis=0)
        columns["generated"] = np.where(self.lost, self.received, columns["generated"])
        columns["held_s"] += np.nan_to_num(self.sent_s - self.workload.arrival_s)
        return columns | {"arrival_s": self.workload.arrival_s}


def _common_blocks(workload: Workload) -> int:
    """Leading blocks that are the same in every prompt that has blocks: a system prompt."""
    begins, counts = workload.prefix_offsets[:-1], np.diff(workload.prefix_offsets)
    begins, counts = begins[counts > 0], counts[counts > 0]
    common = 0
    while len(begins) > 1 and common < counts.min() and len(np.unique(workload.prefix_ids[begins + common])) == 1:
        common += 1
    return common


def _totals(parts: Sequence[State]) -> dict[str, Any]:
    """Of several engines: totals added up, the latest clock, the highest peak of blocks."""
    runs = np.concatenate([part.run.reshape(-1) for part in parts])
    total = records(RUN, 1)
    for name in RUN.names or ():
        total[name] = runs[name].sum()
    total.peak_blocks, total.now_s = runs["peak_blocks"].max(), runs["now_s"].max()
    return {"run": total, "gap_histogram": np.sum([part.gap_histogram.sum(axis=0) for part in parts], axis=0)}
