"""`DayOptions`: the rate of every hour, for a fleet that follows it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.cli.groups import changed
from fluidgate.errors import InputError
from fluidgate.words import listed, shown

if TYPE_CHECKING:
    from rich.table import Table

    from fluidgate.metrics import Slo
    from fluidgate.runs import Runner
    from fluidgate.runs.scaling import Day, HourlyFleet
    from fluidgate.runs.size import Sizing
    from fluidgate.workload import Synthetic, Workload

_D, TRACE = "Day", "trace"


@dataclass(frozen=True)
class DayOptions:
    """A day to follow; the answer is then for its peak."""

    day: Annotated[
        str | None,
        typer.Option(
            "--day",
            help=f"Requests per second of every hour, such as `4,6,20,40,15`; or `{TRACE}`: the trace's own.",
            rich_help_panel=_D,
        ),
    ] = None
    bucket: Annotated[
        float, typer.Option("--bucket", help="Length of an hour of `--day`, seconds.", rich_help_panel=_D)
    ] = 3600.0
    startup: Annotated[
        float, typer.Option("--startup", help="Seconds until a new replica takes requests.", rich_help_panel=_D)
    ] = 180.0

    def busiest(self, source: Workload | Synthetic) -> Workload | Synthetic:
        """What the peak is made of: the requests of a trace's busiest hour, where the day is the trace's."""
        from fluidgate.runs.scaling import Day, bucket_of
        from fluidgate.workload import Workload

        if self.day != TRACE or not isinstance(source, Workload):
            return source
        day = Day.of(source, self.bucket)
        return source.take(bucket_of(source, self.bucket) == day.rates.index(day.peak))

    def load(self, source: Workload | Synthetic, growth: float) -> Day | None:
        """The day, grown; None where none was asked for.

        Raises:
            InputError: what is no list of rates, `trace` without a trace, or options of a day without one.
        """
        from fluidgate.runs.scaling import Day
        from fluidgate.workload import Workload

        if self.day is None:
            if unused := list(changed(self).values()):
                raise InputError(f"{listed(unused)} without --day would change nothing: add it, or leave them out")
            return None
        if self.day != TRACE:
            return Day(tuple(growth * rate for rate in _rates(self.day)), self.bucket)
        if not isinstance(source, Workload):
            raise InputError("--day trace takes the rates of a trace: add --trace, or give the rates")
        day = Day.of(source, self.bucket)
        return replace(day, rates=tuple(growth * rate for rate in day.rates))

    def fleet(
        self,
        day: Day,
        sizing: Sizing,
        source: Workload | Synthetic,
        slo: Slo | None,
        policy_file: Path | None,
        runner: Runner,
    ) -> HourlyFleet:
        """What the machine of the answer needs every hour, set as in the answer."""
        from fluidgate.runs.scaling import hourly
        from fluidgate.runs.size.demand import Demand

        answer = sizing.answer
        assert answer is not None, "asked for only where a fleet holds"
        return hourly(
            Demand(source, sizing.rate, sizing.objectives, slo, sizing.requests, sizing.seed),
            day,
            answer.machine,
            answer.flags,
            startup_s=self.startup,
            at_peak=answer.replicas,
            config=sizing.config,
            certainty=sizing.certainty,
            policy_file=policy_file,
            runner=runner.without_results(),  # the file is the search's
        )


def day_table(fleet: HourlyFleet) -> Table:
    """Every hour: its rate, its replicas, and what they cost."""
    from rich import box
    from rich.table import Table

    head, rows = fleet.table()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in head:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def scaling_line(sizing: Sizing, fleet: HourlyFleet, plan_path: Path) -> str:
    """The command that writes the rules by which such a fleet scales."""
    answer = sizing.answer
    assert answer is not None, "asked for only where a fleet holds"
    words = ["fluidgate", "scaling-rules", str(plan_path), "--replica-rate", f"{sizing.rate / answer.replicas:.6g}"]
    return shlex.join([*words, "--startup", f"{fleet.startup_s:g}", "--most", str(fleet.fixed)])


def _rates(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise InputError(f"--day {shown(text)}: give requests per second with commas between them, or trace") from None
