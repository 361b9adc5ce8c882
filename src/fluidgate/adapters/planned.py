"""`Planned`: the replicas and the policy of a gate before the servers, from a plan file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.fleet import FleetGate, Gauges, Replica
from fluidgate.policies import Fluid
from fluidgate.serving import PlanFile


@dataclass(frozen=True)
class Planned:
    """What a plan file says of every replica, and of requests.

    Attributes:
        classes: labels of requests, in the order of their numbers; empty where the plan has none.
    """

    policy: Fluid
    total_blocks: int
    block_size: int
    max_num_seqs: int
    token_budget: int
    classes: tuple[str, ...]

    @classmethod
    def load(cls, path: Path | str, total_blocks: int | None = None) -> Planned:
        """From `fluidgate plan … --save`.

        Args:
            total_blocks: KV blocks of a replica, the null block not counted; None: as planned.

        Raises:
            InputError: no plan, or one of another policy than `fluid`, or of a cache whose blocks alone do not tell
                what fits.
        """
        plan = PlanFile.load(path)
        policy = plan.make_policy()
        if not isinstance(policy, Fluid):
            raise InputError(
                f"{path}: the gate before the servers runs fluid, and the plan is of {plan.policy}; "
                "save one with `fluidgate plan … --policy fluid --save`"
            )
        if plan.hardware.kv_groups > 1 and total_blocks is None:
            raise InputError(
                f"{path}: the layers of {plan.hardware.name} forget tokens, so give total_blocks, as "
                "fluidgate.fluid.plain_blocks counts them"
            )
        return cls(
            policy,
            total_blocks or plan.hardware.num_gpu_blocks - 1,
            plan.hardware.block_size,
            plan.engine.seats,
            plan.engine.max_num_batched_tokens,
            plan.classes.names,
        )

    def replica(self, name: str, total_blocks: int | None = None) -> Replica:
        """A replica as planned; `total_blocks`: as many as it says itself."""
        return Replica(name, total_blocks or self.total_blocks, self.block_size, self.max_num_seqs, self.token_budget)

    def gate(self, *, gates: int = 1) -> FleetGate:
        """A gate without replicas, one of so many before them."""
        return FleetGate((), self.policy, gates=gates)

    def warm_up(self) -> None:
        """Compile what a gate runs, before anybody waits for it: half a minute, once on a machine."""
        gate = self.gate()
        gate.add_replica(self.replica("warm-up"), 0.0)
        for k, name in enumerate(("served", "failed")):
            gate.arrive(name, 1, now_s=float(k))
            gate.note_tokens(name, 1, now_s=k + 0.1)
        gate.note_gauges("warm-up", Gauges(0.0, 2.0, 0.01, measured_s=1.2), now_s=1.3)
        gate.note_end("served", now_s=2.0, generated=2)
        gate.note_failure("failed", now_s=3.0)
        gate.released(now_s=4.0)
        gate.state(now_s=5.0)

    def class_id(self, label: str | None) -> int:
        """The number of a label; unknown ones, and none, count as the last class, as in the plugin."""
        return self.classes.index(label) if label in self.classes else max(0, len(self.classes) - 1)
