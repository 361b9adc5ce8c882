"""`Change`: what to do about a finding; alternatives together, and only what the server's vLLM allows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from fluidgate.doctor.facts import Facts
from fluidgate.words import listed

GATE_CLASS = "fluidgate.serving.scheduler.GateScheduler"
GATE_RELEASES = (0, 24), (0, 33)
"""The releases that fluidgate's scheduler runs on."""

SINCE = {
    "--scheduler-cls": GATE_RELEASES[0],
    "--watermark": (0, 24),
    "--max-num-queued-reqs": (0, 29),
    "--max-num-active-seqs": (0, 31),
}
"""Where a flag is known to be; others are older than all that is read here."""


class Group(StrEnum):
    """What changes are for: those of one group do the same, and one of them is enough."""

    GATE = "the gate"
    ADMISSION = "against evictions"
    MEMORY = "for more KV memory"
    CAPACITY = "against more load than fits"
    SEATS = "for more seats"
    TOKENS = "the token budget, which trades first tokens against gaps"
    PREFIX = "for prompts that share a beginning"
    ROUTE = "before the servers"
    FAILURES = "against failed requests"
    KNOW = "to know more"


@dataclass(frozen=True)
class Change:
    """One thing to do: a flag of `vllm serve` with its value, a command or an action, and why.

    Attributes:
        flag: name and value of the argument, where it is one; the value of a switch is empty.
        size: what the changes of its group can return at most, in words; empty where unknown.
        changes_answers: whether the model may answer otherwise.
        vague: whether a change that says the same with a number makes it superfluous.
    """

    what: str
    why: str
    group: Group = Group.KNOW
    flag: tuple[str, str] | None = None
    size: str = ""
    changes_answers: bool = False
    vague: bool = False

    @classmethod
    def of_flag(cls, group: Group, name: str, value: str, why: str, size: str = "") -> Change:
        """One that is an argument of `vllm serve`."""
        return cls(f"`{f'{name} {value}'.strip()}`", why, group, (name, value), size)


GATE = Change.of_flag(
    Group.ADMISSION,
    "--scheduler-cls",
    GATE_CLASS,
    "admits what will still fit as outputs grow; it learns their lengths, or takes them from `fluidgate plan --save`",
)


@dataclass(frozen=True)
class Alternatives:
    """Changes of which one is enough.

    Attributes:
        urgent: whether a finding asks to act.
        changes: the first is in the ready line, if it is a flag.
    """

    group: Group
    urgent: bool
    size: str
    changes: tuple[Change, ...] = field(default_factory=tuple)


def has_flag(facts: Facts, name: str) -> bool:
    """Whether the server's vLLM has a flag, as far as its release is known."""
    return facts.release is None or facts.release >= SINCE.get(name, (0, 0))


def gate_runs(facts: Facts) -> bool:
    """Whether fluidgate's scheduler runs on the server's vLLM."""
    known = facts.release is None or GATE_RELEASES[0] <= facts.release <= GATE_RELEASES[1]
    return known and not facts.speculative


def alternatives(offers: Iterable[tuple[bool, Change]]) -> tuple[Alternatives, ...]:
    """Changes by group, each once, in the order in which they come; what changes answers goes to the end of its group.

    Args:
        offers: whether a change is urgent, and the change.
    """
    groups: dict[Group, list[tuple[bool, Change]]] = {}
    for urgent, change in offers:
        group = groups.setdefault(change.group, [])
        if change.what not in [other.what for _, other in group]:
            group.append((urgent, change))
    if Group.CAPACITY in groups and Group.MEMORY in groups:
        groups[Group.MEMORY] = [offer for offer in groups[Group.MEMORY] if not offer[1].vague]
    return tuple(
        Alternatives(
            group,
            any(urgent for urgent, _ in offers_),
            next((change.size for _, change in offers_ if change.size), ""),
            tuple(sorted((change for _, change in offers_), key=lambda change: change.changes_answers)),
        )
        for group, offers_ in groups.items()
        if offers_
    )


def ready_line(facts: Facts, groups: Iterable[Alternatives]) -> str | None:
    """The `vllm serve` line with the first flag of each group, of the urgent ones if any is; None without a flag.

    Flags that the server is known to have go on it, so that the line does not take them back.
    """
    groups = list(groups)
    chosen = [group for group in groups if group.urgent] or groups
    first = [group.changes[0] for group in chosen if not group.changes[0].changes_answers]
    flags = dict(change.flag for change in first if change.flag is not None)
    if not flags:
        return None
    for name, value in _told(facts).items():
        if name not in flags and not (name == "--no-enable-prefix-caching" and "--enable-prefix-caching" in flags):
            flags[name] = value
    words = [word for name, value in flags.items() for word in (name, value) if word]
    return shlex.join(["vllm", "serve", facts.model or "MODEL", *words])


def _told(facts: Facts) -> dict[str, str]:
    """Arguments that the server is known to have."""
    told = {
        "--max-num-seqs": facts.max_num_seqs,
        "--max-num-batched-tokens": facts.max_num_batched_tokens,
        "--gpu-memory-utilization": facts.gpu_memory_utilization,
        "--kv-cache-dtype": None if facts.kv_cache_dtype == "auto" else facts.kv_cache_dtype,
    }
    flags = {name: f"{value}" for name, value in told.items() if value is not None}
    return flags | ({"--no-enable-prefix-caching": ""} if facts.prefix_caching is False else {})


def left_out(facts: Facts) -> str | None:
    """What is not recommended since the server's vLLM lacks it; None where nothing is."""
    if facts.release is None:
        return None
    lacking = [name for name in SINCE if name != "--scheduler-cls" and not has_flag(facts, name)]
    if not gate_runs(facts) and not facts.speculative:
        lacking.insert(0, "fluidgate's scheduler")
    if not lacking:
        return None
    return f"vLLM {facts.version or '{}.{} or older'.format(*facts.release)} does not have {listed(lacking)}."
