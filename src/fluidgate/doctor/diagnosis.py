"""`diagnose`: facts to findings, the most urgent first, and by benefit among equals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fluidgate.doctor.boundary import boundary_of, memory_of
from fluidgate.doctor.changes import Alternatives, Change, alternatives, left_out, ready_line
from fluidgate.doctor.facts import Facts
from fluidgate.doctor.finding import Case, Finding, Severity
from fluidgate.doctor.findings_failures import failed, slow_tokens
from fluidgate.doctor.findings_gate import gate
from fluidgate.doctor.findings_kv import SEVERAL_GROUPS, kv_size
from fluidgate.doctor.findings_latency import first_token, gap_spikes, prefix_cache
from fluidgate.doctor.findings_load import load
from fluidgate.doctor.findings_preemption import preemptions
from fluidgate.doctor.findings_queue import kv_binds, other_limit
from fluidgate.doctor.held import held_of
from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.words import number

EXAMINATIONS: tuple[Callable[[Case], Finding | None], ...] = (
    gate,
    kv_size,
    load,
    kv_binds,
    preemptions,
    other_limit,
    failed,
    first_token,
    slow_tokens,
    gap_spikes,
    prefix_cache,
)


STANDS_STILL = (
    "Cannot tell whether memory binds: requests run, but no token was computed in the time. Either they were aborted "
    "and old numbers are repeated, or the engine hangs: send a request and see whether it is answered."
)


@dataclass(frozen=True)
class Diagnosis:
    """What the facts say.

    Attributes:
        source: what was read.
        findings: the most urgent first, and the largest benefit first among equals.
        notes: what cannot be determined, why, and what to do.
        ready_line: `vllm serve` with the first flag of each group of changes; None where none is a flag.
        kv_cache: size and dtype of an engine's KV cache, and who says so; empty where neither is known.
    """

    source: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    kv_cache: str = ""
    ready_line: str | None = None

    @property
    def alternatives(self) -> tuple[Alternatives, ...]:
        """What to change, in the order of benefit; one of each group is enough."""
        return alternatives(
            (finding.severity is Severity.ACT, change) for finding in self.findings for change in finding.changes
        )

    @property
    def changes(self) -> tuple[Change, ...]:
        """What to change, each once, the alternatives in their order."""
        return tuple(change for group in self.alternatives for change in group.changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; an unknown number is None."""
        return {
            "source": self.source,
            "findings": plain(self.findings, finite=True),
            "changes": plain(self.changes),
            "alternatives": plain(self.alternatives),
            "ready_line": self.ready_line,
            "notes": list(self.notes),
            "kv_cache": self.kv_cache,
        }


def diagnose(facts: Facts, hardware: Hardware | None = None, besides: Sequence[Finding] = ()) -> Diagnosis:
    """What binds, what it costs and what to change.

    Args:
        facts: from `read_facts`.
        hardware: step times, for the stability boundary, which stays unknown without them. The KV memory that the
            server states takes precedence over the hardware's.
        besides: findings that were made elsewhere, to be ranked with the others.

    Raises:
        InputError: lengths that contradict their buckets or the KV memory.
    """
    if hardware is not None and facts.kv_tokens is None:
        facts = _with_kv_of(hardware, facts)
    held = held_of(facts)
    contradiction = held if held is not None and held.contradicts else None
    if contradiction is not None:
        facts = facts.without_kv()
    memory = memory_of(facts)
    boundary = boundary_of(facts, memory, hardware) if memory is not None and hardware is not None else None
    case = Case(facts, memory, boundary, contradiction)
    if not facts.busy and not facts.finished:
        idle = "Cannot tell anything, because nothing runs, waits or has finished. Read the server under load."
        return Diagnosis(facts.source, (Finding("idle", Severity.UNKNOWN, idle),), facts.notes)
    if facts.stands_still:
        return Diagnosis(facts.source, (Finding("stands-still", Severity.WATCH, STANDS_STILL),), facts.notes)
    findings = [*besides, *(finding for examine in EXAMINATIONS if (finding := examine(case)) is not None)]
    if not any(finding.severity in (Severity.ACT, Severity.WATCH) for finding in findings):
        findings.append(_nothing_wrong(facts))
    order = list(Severity)
    findings.sort(key=lambda finding: (order.index(finding.severity), -finding.benefit))
    found = Diagnosis(facts.source, tuple(findings), (), _kv_cache(facts, hardware))
    notes = (*facts.notes, SEVERAL_GROUPS) if facts.several_kv_groups else facts.notes
    lacking = left_out(facts) if found.changes else None
    return replace(
        found, notes=(*notes, lacking) if lacking else notes, ready_line=ready_line(facts, found.alternatives)
    )


def _kv_cache(facts: Facts, hardware: Hardware | None) -> str:
    """Size and dtype; the page says `auto` where the dtype is the checkpoint's or the model's."""
    size = [] if facts.kv_tokens is None else [f"{number(facts.kv_tokens)} tokens"]
    if facts.kv_cache_dtype is not None:
        dtype = [f"{facts.kv_cache_dtype}, as the server states"]
    else:
        dtype = [str(hardware.law.dtype)] if hardware is not None and hardware.law.dtype.name else []
    return ", ".join(size + dtype)


def _nothing_wrong(facts: Facts) -> Finding:
    if not facts.busy:
        says = "Nothing to change in what has finished; nothing ran at the time: read the server under load as well."
    else:
        says = "Nothing to change: memory does not bind, and no queue builds up."
    return Finding("nothing-wrong", Severity.FINE, says, benefit=1.0)


def _with_kv_of(hardware: Hardware, facts: Facts) -> Facts:
    """The facts with the hardware's KV cache: its size as a server with these limits would state it."""
    several, source = not hardware.law.is_one_full_group, "the hardware's KV cache"
    limits = hardware.server.with_flags(facts.max_num_seqs, facts.max_num_batched_tokens)
    tokens = None
    if several and limits.max_model_len is not None:
        tokens = float(hardware.logged_kv_tokens(limits.max_num_batched_tokens, limits.max_model_len))
    return facts.with_kv(hardware.num_gpu_blocks, hardware.block_size, tokens, several_groups=several, source=source)
