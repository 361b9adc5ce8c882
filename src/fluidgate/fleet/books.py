"""`Books`: what the gate knows of every request and replica, as kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fluidgate.arrays import NONE
from fluidgate.fleet.layout import REPLICA, Fleet, Rows
from fluidgate.fleet.replica import Replica
from fluidgate.policies import Fluid
from fluidgate.policies.parts.forecast import FORECAST_SIZE
from fluidgate.policies.parts.margin import new_margin

FIRST_ROWS = 1024
_INTS = ("prompt_tokens", "generated_tokens", "class_id", "replica", "beyond", "mark_tokens")


class Books:
    """Columns by row, a table of replicas, and the memory of `fluid` with a forecast and a margin for each.

    A replica keeps its number for good; rows are used again once a request has left.

    Attributes:
        largest_tokens: KV tokens of the largest replica that takes requests; infinity: none does now.
    """

    def __init__(self, policy: Fluid, gates: int) -> None:
        self.policy, self.gates = policy, gates
        self.names: list[str] = []
        self.replica_at: dict[str, int] = {}
        self.largest_tokens = float("inf")
        self.row_of: dict[str, int] = {}
        self.name_of: list[str] = [""] * FIRST_ROWS
        self._free = list(range(FIRST_ROWS - 1, -1, -1))
        columns: dict[str, Any] = {
            name: np.zeros(FIRST_ROWS, np.int64 if name in _INTS else np.float64) for name in Rows._fields
        }
        memory = policy.new_memory()
        self.fleet = Fleet(
            policy.pack(),
            np.concatenate([memory, np.zeros(FORECAST_SIZE)]),
            np.zeros(0, REPLICA).view(np.recarray),
            np.zeros((0, 0), np.int64),
            Rows(**columns),
            float(gates),
            len(memory),
        )

    @property
    def rows(self) -> Rows:
        """The columns."""
        return self.fleet.rows

    def set_takes(self, k: int, takes: bool) -> None:
        """Say whether a replica is sent requests."""
        table = self.fleet.table
        table[k].takes = takes
        taking = table.capacity[table.takes != 0]
        self.largest_tokens = float(taking.max()) if len(taking) else float("inf")

    def add_replica(self, replica: Replica) -> int:
        """A place for one more replica; returns its number."""
        fleet, k = self.fleet, len(self.names)
        table = np.concatenate([fleet.table, np.zeros(1, REPLICA)]).view(np.recarray)
        new = table[k]
        new.at, new.loop = len(fleet.memory), len(fleet.memory) + FORECAST_SIZE
        new.block_size, new.seats = replica.block_size, replica.max_num_seqs
        new.capacity, new.unshared = replica.total_blocks * replica.block_size, 1.0
        new.renewed_s = new.measured_s = -np.inf
        seats = max(fleet.residents.shape[1], replica.max_num_seqs)
        residents = np.zeros((k + 1, seats), np.int64)
        residents[:k, : fleet.residents.shape[1]] = fleet.residents
        margin = new_margin(has_prior=len(self.policy.output_quantiles) > 0)
        memory = np.concatenate([fleet.memory, np.zeros(FORECAST_SIZE), margin])
        self.fleet = fleet._replace(table=table, residents=residents, memory=memory)
        self.names.append(replica.name)
        self.replica_at[replica.name] = k
        self.set_takes(k, True)
        return k

    def more_seats(self) -> None:
        """Places in flight at every replica for twice as many, where one was sent more than it has seats."""
        residents = self.fleet.residents
        self.fleet = self.fleet._replace(residents=np.concatenate([residents, np.zeros_like(residents)], axis=1))

    def new_row(self, name: str, prompt_tokens: int, class_id: int, now_s: float, timeout_s: float) -> int:
        """A row for a request that has come; the columns grow when there is none."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        self.row_of[name], self.name_of[row] = row, name
        rows = self.fleet.rows
        rows.prompt_tokens[row], rows.class_id[row], rows.generated_tokens[row] = prompt_tokens, class_id, 0
        rows.replica[row], rows.beyond[row], rows.mark_tokens[row] = NONE, 0, 0
        rows.sent_s[row] = rows.seen_s[row] = rows.mark_s[row] = np.nan
        rows.arrival_s[row], rows.timeout_s[row] = now_s, timeout_s
        return row

    def _grow(self) -> None:
        size = len(self.name_of)
        self._free = list(range(2 * size - 1, size - 1, -1))
        self.name_of += [""] * size
        doubled: Any = (np.concatenate((part, np.zeros_like(part))) for part in self.fleet.rows)
        self.fleet = self.fleet._replace(rows=Rows(*doubled))

    def forget(self, row: int) -> None:
        """Free a request's row."""
        del self.row_of[self.name_of[row]]
        self.name_of[row] = ""
        self._free.append(row)

    def at_replica(self, k: int) -> Sequence[int]:
        """Rows in flight at a replica, in the order in which they were sent."""
        rows: list[int] = self.fleet.residents[k, : self.fleet.table[k].count].tolist()
        return rows
