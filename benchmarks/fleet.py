"""What a decision of the gate from outside takes, with many requests in flight on many replicas.

    python benchmarks/fleet.py [in flight [replicas]]

Azure conversations come, stream at 25 tokens a second and end, at a fleet that has room and at one that is full, where
each end lets others go. All tokens are told four times a second. Everything is timed but that, which has a row of its
own. Times are of the processor. Beside them, in the same run, what a pass over a list of all in flight takes in Python:
ratios compare machines.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from fluidgate import plan
from fluidgate.arrays import FloatArray
from fluidgate.fleet import Admit, FleetGate, Replica
from fluidgate.hardware import load_profile
from fluidgate.policies import Fluid
from fluidgate.workload import generate

CONSOLE = Console(width=120)
LIMIT_US = 50.0
TOKENS_PER_S, TOLD_S = 25.0, 0.25
LOAD = generate("azure-conv-2023", n=100_000, rate=1.0)
POLICY = Fluid.from_plan(plan(LOAD.take(slice(0, 5000)), load_profile("llama-2-7b", "a100-80gb")))


class Fleet:
    """A gate before streams that run as fast as they are meant to."""

    def __init__(self, in_flight: int, replicas: int, room: float) -> None:
        seconds = LOAD.output_tokens / TOKENS_PER_S
        self.between_s = float(seconds.mean()) / in_flight
        held = float(((LOAD.prompt_tokens + LOAD.output_tokens / 2) * seconds).mean() / seconds.mean())
        blocks = int(room * held * in_flight / replicas / 16)
        self.gate = FleetGate([Replica(str(k), blocks, 16, in_flight) for k in range(replicas)], POLICY)
        self.now_s, self.next, self.told_s = 0.0, 0, 0.0
        self.ends: list[tuple[float, int]] = []
        self.began_s = np.zeros(len(LOAD))
        self.arrive_us: list[float] = []
        self.end_us: list[float] = []

    def come(self) -> None:
        """The next request."""
        row, self.next = self.next % len(LOAD), self.next + 1
        self.now_s += self.between_s
        while self.ends and self.ends[0][0] <= self.now_s:
            self.end(heapq.heappop(self.ends)[1])
        if self.now_s - self.told_s > TOLD_S:
            self.tell()
        begin = time.process_time()
        answer = self.gate.arrive(str(row), int(LOAD.prompt_tokens[row]), now_s=self.now_s)
        self.arrive_us.append(1e6 * (time.process_time() - begin))
        if isinstance(answer, Admit):
            self.start(row)

    def start(self, row: int) -> None:
        """It streams from now on."""
        self.began_s[row] = self.now_s
        heapq.heappush(self.ends, (self.now_s + int(LOAD.output_tokens[row]) / TOKENS_PER_S, row))

    def end(self, row: int) -> None:
        """It has all its tokens; others may go."""
        begin = time.process_time()
        self.gate.note_end(str(row), self.now_s, int(LOAD.output_tokens[row]))
        released = self.gate.released(self.now_s)
        self.end_us.append(1e6 * (time.process_time() - begin) / max(1, len(released)))
        for name, answer in released:
            assert isinstance(answer, Admit)
            self.start(int(name))

    def tell(self) -> float:
        """Say how many tokens each stream has got; returns microseconds of a token."""
        self.told_s = self.now_s
        rows = np.array([row for _, row in self.ends], np.int64)
        numbers = np.array([self.gate.row_of(str(row)) for row in rows.tolist()], np.int64)
        tokens = np.maximum(1, ((self.now_s - self.began_s[rows]) * TOKENS_PER_S).astype(np.int64))
        begin = time.process_time()
        self.gate.note_tokens_of(numbers, tokens, self.now_s)
        return 1e6 * (time.process_time() - begin) / max(1, len(rows))


def each_us(action: Callable[[], object], times: int) -> float:
    """Microseconds that an action takes, of so many in a row."""
    begin = time.process_time()
    for _ in range(times):
        action()
    return 1e6 * (time.process_time() - begin) / times


def main(in_flight: int, replicas: int) -> None:
    """Both fleets, warm, and the mean against the limit."""
    listed = list(range(in_flight))
    table = Table("µs", "mean", "median", "p99", "÷ a pass", title=f"{in_flight:,} in flight on {replicas} replicas")
    worst_us = 0.0
    for name, room in (("room for all", 2.0), ("full", 0.9)):
        fleet = Fleet(in_flight, replicas, room)
        for _ in range(3 * in_flight):
            fleet.come()
        fleet.arrive_us, fleet.end_us = [], []
        for _ in range(in_flight):
            fleet.come()
        pass_us = each_us(lambda: [row for row in listed if row < 0], 50)
        rows: dict[str, FloatArray] = {"arrival": np.array(fleet.arrive_us), "end": np.array(fleet.end_us)}
        for what, taken_us in rows.items():
            p99 = float(np.percentile(taken_us, 99))
            numbers = f"{taken_us.mean():.1f}", f"{np.median(taken_us):.1f}", f"{p99:.1f}"
            table.add_row(f"{name}: {what}", *numbers, f"{taken_us.mean() / pass_us:.3f}")
            worst_us = max(worst_us, float(taken_us.mean()))
        stream = str(fleet.ends[0][1])
        one_us = each_us(lambda name=stream, gate=fleet.gate, now=fleet.now_s: gate.note_tokens(name, 100, now), 10_000)
        table.add_row(f"{name}: a token", f"{one_us:.2f}", "", "", "")
        table.add_row(f"{name}: one of many tokens", f"{fleet.tell():.3f}", "", "", "")
        table.add_row(f"{name}: waiting, in flight", f"{len(fleet.gate.waiting):,}", f"{len(fleet.ends):,}", "", "")
    CONSOLE.print(table)
    if worst_us > LIMIT_US:
        sys.exit(f"a decision takes {worst_us:.1f} µs, and may take {LIMIT_US:.0f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]), *(10_000, 64)[len(sys.argv) - 1 :])
