"""What `fluidgate doctor` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fluidgate.words import escaped, number, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from fluidgate.doctor import Diagnosis, FleetDiagnosis, Replica
    from fluidgate.doctor.watch import Look

COLOURS = {"act": "red", "watch": "yellow", "fine": "green", "cannot tell": "dim"}
COLUMNS = "{:<8} {:>6} {:>7} {:>7} {:>7} {:>10} {:>7}  {}"
LOOKS = COLUMNS.format("time", "req/s", "tok/s", "running", "waiting", "KV in use", "evicted", "what binds")
"""The heading of `look_line`'s lines."""


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """One server, or several together."""
    console.print(escaped(diagnosis.source), style="bold", highlight=False)
    console.print(_findings(diagnosis))
    if diagnosis.alternatives:
        console.print("What to change, in order of benefit; one of each group is enough", style="bold", highlight=False)
        console.print(_changes(diagnosis))
    if diagnosis.ready_line is not None:
        console.print("Ready to run; add what else your server is started with:", style="bold", highlight=False)
        print(escaped(diagnosis.ready_line))  # as it is: a wrapped line could not be copied
        print()
    if diagnosis.kv_cache:
        console.print(f"KV cache of an engine: {escaped(diagnosis.kv_cache)}", highlight=False)
    for note in diagnosis.notes:
        console.print(note, highlight=False)


def print_fleet(fleet: FleetDiagnosis, console: Console) -> None:
    """A line for each server, then what they say together, or each by itself where they are not alike."""
    console.print(f"{len(fleet.replicas)} servers", style="bold", highlight=False)
    console.print(_replicas(fleet.replicas))
    rates = [facts.rate for facts in fleet.read if facts.rate is not None]
    parts = [
        f"{number(sum(facts.all_running for facts in fleet.read))} requests run",
        f"{number(sum(facts.all_waiting for facts in fleet.read))} wait",
    ]
    if len(rates) == len(fleet.read):
        parts.append(f"{number(sum(rates))} req/s arrive")
    if fleet.kv_use_range is not None:
        low, high = map(percent, fleet.kv_use_range)
        parts.append(f"KV caches are {low} to {high} full" if low != high else f"KV caches are {low} full")
    console.print(f"All together: {', '.join(parts)}.\n", highlight=False)
    if fleet.together is not None:
        print_diagnosis(fleet.together, console)
        return
    console.print(f"They are looked at one by one, because {fleet.apart}.\n", highlight=False)
    for replica in fleet.replicas:
        if replica.diagnosis is not None:
            print_diagnosis(replica.diagnosis, console)


def look_line(look: Look) -> str:
    """One look of `--watch`, under the columns of `LOOKS`."""
    low, high = f"{100 * look.kv_low:.0f}", f"{100 * look.kv_high:.0f}"
    values = [
        time.strftime("%H:%M:%S", time.localtime(look.taken_s)),
        "-" if look.rate is None else number(look.rate),
        "-" if look.tokens_per_s is None else number(look.tokens_per_s),
        number(look.running),
        number(look.waiting),
        f"{high}%" if low == high else f"{low}-{high}%",
        "-" if look.preemptions is None else number(look.preemptions),
    ]
    line = COLUMNS.format(*values, look.limit)
    remarks = [f"started again: {', '.join(look.restarted)}"] if look.restarted else []
    if look.still:
        remarks.append(f"{look.still} compute nothing")
    if look.missed:
        remarks.append(f"{look.missed} of {look.servers + look.missed} do not answer")
    return escaped("; ".join([line, *remarks]))


def _replicas(replicas: Sequence[Replica]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("server", overflow="fold")
    for name in ("running", "waiting", "KV in use", "req/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first of its findings")
    for replica in replicas:
        if replica.facts is None or replica.diagnosis is None:
            table.add_row(Text(escaped(replica.name)), *["-"] * 4, Text(f"cannot be read: {escaped(replica.why)}"))
            continue
        facts, finding = replica.facts, replica.diagnosis.findings[0]
        table.add_row(
            Text(escaped(replica.name)),
            number(facts.all_running),
            number(facts.all_waiting),
            percent(facts.kv_use),
            "-" if facts.rate is None else number(facts.rate),
            Text(f"{finding.severity}: {finding.name}", style=COLOURS[finding.severity]),
        )
    return table


def _findings(diagnosis: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("severity", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("says")
    for finding in diagnosis.findings:
        table.add_row(Text(finding.severity, style=COLOURS[finding.severity]), Text(finding.name), Text(finding.says))
    return table


def _changes(diagnosis: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("what", overflow="fold", max_width=62)
    table.add_column("why")
    for rank, group in enumerate(diagnosis.alternatives, 1):
        title = group.group[0].upper() + group.group[1:] + (", one of" if len(group.changes) > 1 else "")
        table.add_row(str(rank), Text(title, style="bold"), Text(group.size))
        for letter, change in zip("abcdefghij", group.changes, strict=False):
            mark = f"{letter} " if len(group.changes) > 1 else ""
            table.add_row("", Text(mark + change.what), Text(change.why))
    return table
