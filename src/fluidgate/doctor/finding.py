"""`Finding`: one thing that the facts say, and what to change about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from fluidgate.doctor.binding import SEATS, Binding, binding_of
from fluidgate.doctor.boundary import Boundary, Memory
from fluidgate.doctor.changes import GATE, Change, Group, gate_runs, has_flag
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.held import Held


class Severity(StrEnum):
    """How urgent a finding is, the most urgent first."""

    ACT = "act"
    WATCH = "watch"
    FINE = "fine"
    UNKNOWN = "cannot tell"


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
    def binding(self) -> Binding:
        """Which limit keeps requests waiting."""
        return binding_of(self.facts)


def admission_changes(case: Case, size: str = "") -> tuple[Change, ...]:
    """Against overflow: fluidgate's scheduler where it gates, and stock vLLM's own flags, with values if known.

    Args:
        size: what they can return, in words.
    """
    facts, memory = case.facts, case.memory
    changes = [GATE] if gate_runs(facts) else []
    if has_flag(facts, "--watermark"):
        share, why = "0.05", "keeps blocks free for growth; a common value, as the lengths are unknown"
        if memory is not None:
            share, why = f"{memory.watermark:.3g}", "of the blocks stay free at admission: two sd of the KV in use"
        changes.append(Change.of_flag(Group.ADMISSION, "--watermark", share, why))
    if memory is not None:
        cap = max(1, round(memory.full_at_residents))
        name = "--max-num-active-seqs" if has_flag(facts, "--max-num-active-seqs") else SEATS
        if facts.max_num_seqs is None or cap < facts.max_num_seqs:
            why = "n*: residents of these lengths that fill the KV cache on average"
            changes.append(Change.of_flag(Group.ADMISSION, name, str(cap), why))
    return tuple(replace(change, size=size) for change in changes)
