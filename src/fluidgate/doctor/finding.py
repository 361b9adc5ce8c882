"""`Finding`: one thing that the facts say, and what to change about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fluidgate.doctor.boundary import Boundary, Memory
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.held import Held


class Severity(StrEnum):
    """How urgent a finding is, the most urgent first."""

    ACT = "act"
    WATCH = "watch"
    FINE = "fine"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Change:
    """One thing to do: a flag of `vllm serve` with its value, a command or an action, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Finding:
    """A sentence, the numbers behind it, and what to change.

    Attributes:
        benefit: the share that is lost to it, and the most that a change can return: of the rate, of the computed
            tokens or of the users' waiting, in [0, 1].
        numbers: by name, with units in the names.
        changes: in the order of benefit.
    """

    name: str
    severity: Severity
    says: str
    benefit: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Case:
    """What a finding is made from.

    Attributes:
        memory, boundary: None where they cannot be computed.
        contradiction: why the stated size of the KV cache is not used; None where it is.
    """

    facts: Facts
    memory: Memory | None = None
    boundary: Boundary | None = None
    contradiction: Held | None = None

    @property
    def gate_holds(self) -> bool:
        """Whether fluidgate's scheduler, not a limit of the engine, keeps requests waiting."""
        return self.facts.gate is not None and self.facts.gate.held > 0


GATE = Change(
    "`--scheduler-cls fluidgate.serving.scheduler.GateScheduler`",
    "admits what will still fit as outputs grow; it learns their lengths, or takes them from `fluidgate plan --save`",
)


def admission_changes(case: Case) -> tuple[Change, ...]:
    """Against overflow: fluidgate's scheduler where it gates, and stock vLLM's two flags, with values if known."""
    facts, memory = case.facts, case.memory
    stock = facts.several_kv_groups or facts.speculative
    if case.contradiction is not None and facts.kv_source == "the page":  # most often it is that of several groups
        stock = True
    gate = () if stock else (GATE,)
    if memory is None:
        return (
            *gate,
            Change("`--watermark 0.05`", "keeps blocks free for growth; a common value, as the lengths are unknown"),
        )
    cap = max(1, round(memory.full_at_residents))
    return (
        *gate,
        Change(
            f"`--watermark {memory.watermark:.3g}`", "of the blocks stay free at admission: two sd of the KV in use"
        ),
        Change(f"`--max-num-active-seqs {cap}`", "n*: residents of these lengths that fill the KV cache on average"),
    )
