"""The page of the accuracy study: its targets, every measured run, and the closed loops by source and server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.studies.accuracy.closed_loop import CLOSED_SOURCES, LAG_STEPS, OVERHEAD_S
from fluidgate.studies.accuracy.open_loop import FITTED, SETS
from fluidgate.studies.accuracy.study import AccuracyResult, Closed, errors
from fluidgate.studies.markdown import table

TITLES = {
    "profile": "built-in profile",
    "estimate": "estimate from config.json and data sheet",
    "grid": "aiconfigurator grid",
}
PART_TITLES = {"development": "development rows", "judges": "all other rows"}
SHORT = 2048
LONGEST_REASON = 200
_SPREAD = ("TPOT", "90% within", "bias", "TTFT", "90% within", "bias")
_MEANS = {"TTFT": "ttft_s", "TPOT": "tpot_s", "E2E": "e2e_s", "output tok/s": "tokens_per_s"}


def accuracy_page(result: AccuracyResult, command: str) -> str:
    """Markdown; `command` is what made it."""
    sections = [
        "# Accuracy: results",
        f"Made by `{command}`; [](accuracy.md) explains it. An error is predicted ÷ measured − 1.",
        _targets(result),
        _open_loop(result) if "open-loop" in result.parts else "",
        _closed(result) if result.rows else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _targets(result: AccuracyResult) -> str:
    rows = []
    for job, found in result.open_loop.items():
        if job.measured == "rtx-pro-6000" and job.source.endswith("real link"):
            for what, wanted in (("TPOT", 0.05), ("TTFT", 0.1)):
                error = _error(found, _MEANS[what])
                rows.append((f"two RTX PRO 6000, {job.source}: mean {what}", wanted, error))
    learned = result.of("development", "grid")
    if learned:
        for what, name, wanted in (("TPOT", "tpot_ms", 0.05), ("TTFT", "ttft_ms", 0.15)):
            median = float(np.median(np.abs(errors(learned, name))))
            rows.append((f"development rows, grid: median error of {what}", wanted, median))
    cells = [(t, f"{w:.0%}", f"{abs(e):.1%}", "met" if abs(e) <= w else "missed") for t, w, e in rows]
    return f"## Targets\n\n{table(('target', 'at most', 'is', 'verdict'), cells, numbers=False)}" if cells else ""


def _open_loop(result: AccuracyResult) -> str:
    sections = ["## Measured runs, with their arrivals"]
    for name, measured in SETS.items():
        found = {job.source: numbers for job, numbers in result.open_loop.items() if job.measured == name}
        first = next(iter(found.values()))
        columns = ("step times from", *_MEANS, "running", "waiting", "preemptions", "KV blocks")
        rows = [("measured", *_absolute(first, "measured_"), *_gauges(first), "not recorded", _blocks(name))]
        for source, numbers in found.items():
            if source == FITTED:
                rows.append(("measured, second half", *_absolute(numbers, "measured_"), *_gauges(numbers), "", ""))
            differences = (f"± {numbers[f'{gauge}_difference']:.1f}" for gauge in ("running", "waiting"))
            relative = (f"{_error(numbers, key):+.1%}" for key in _MEANS.values())
            blocks = f"{numbers['num_gpu_blocks']:,.0f}"
            rows.append((_title(source), *relative, *differences, f"{numbers['preemptions']:.0f}", blocks))
        sections.append(f"**{measured.title}**\n\n{table(columns, rows, numbers=False)}")
    sections.append(
        "Means over requests. *running* and *waiting*: means over time, and below them the mean difference at a time. "
        "The fit sees the first half of the requests, and is judged on the second."
    )
    return "\n\n".join(sections)


def _closed(result: AccuracyResult) -> str:
    columns = ("rows", "step times from", "of", *_SPREAD, "engine's TTFT")
    rows = []
    for part, count in result.rows.items():
        for source in CLOSED_SOURCES:
            closed = result.of(part, source)
            if closed:
                engine = _median(errors(closed, "engine_ttft_ms"))
                rows.append((PART_TITLES[part], _title(source), f"{len(closed)} of {count}", *_spread(closed), engine))
    sections = [
        "## Closed loops",
        "`silicon_sample.csv` of aiconfigurator-core: servers under vLLM with 4 to 128 requests in flight. Median "
        "|error|, what 90% of the rows are within, and the median error with its sign. A TTFT is the engine's, which "
        f"the last column judges alone, {LAG_STEPS} steps for asynchronous scheduling and {1e3 * OVERHEAD_S:.0f} ms "
        "for HTTP and the tokeniser.",
        table(columns, rows, numbers=False),
    ]
    for part in result.rows:
        closed = result.of(part, "grid")
        if closed:
            sections += [
                f"### On the grid, {PART_TITLES[part]}",
                _by(closed, "model", lambda c: c.row.server.kind),
                _by(closed, "server", lambda c: f"{Path(c.row.server.model).name}, {_where(c)}"),
                _by(closed, "in flight", lambda c: 2 ** int(np.log2(c.row.concurrency)), _in_flight),
                _by(closed, "lengths", lambda c: (c.row.prompt_tokens > SHORT, c.row.output_tokens > SHORT), _lengths),
            ]
    return "\n\n".join([*sections, *_refused(result)])


def _where(closed: Closed) -> str:
    server = closed.row.server
    how = f", {server.precision}" if server.precision != "auto" else ""
    return f"{server.tp} × {server.system}{how}{', whole experts' if server.expert_parallel else ''}"


def _in_flight(least: int) -> str:
    return f"{least} to {2 * least - 1}"


def _lengths(are_long: tuple[bool, bool]) -> str:
    prompt, output = (f"{'>' if is_long else '≤'} {SHORT:,}" for is_long in are_long)
    return f"prompt {prompt}, output {output} tokens"


def _by(closed: Sequence[Closed], what: str, key: Callable[[Closed], Any], title: Callable[[Any], str] = str) -> str:
    groups: dict[Any, list[Closed]] = {}
    for row in closed:
        groups.setdefault(key(row), []).append(row)
    rows = [(title(group), str(len(groups[group])), *_spread(groups[group])) for group in sorted(groups)]
    return table((what, "rows", *_SPREAD), rows, numbers=False)


def _refused(result: AccuracyResult) -> list[str]:
    lines = []
    for source, reasons in result.refusals.items():
        if source == "grid" and reasons:
            said = (f"- {count}: {_short(reason.partition(';')[0])}" for reason, count in reasons.items())
            lines += ["### Rows without a grid", "\n".join(said)]
    return lines


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON].rpartition(' ')[0]} …"


def _spread(closed: Sequence[Closed]) -> tuple[str, ...]:
    cells: list[str] = []
    for name in ("tpot_ms", "ttft_ms"):
        error = errors(closed, name)
        cells += [_median(error), f"{np.quantile(np.abs(error), 0.9):.1%}", f"{np.median(error):+.1%}"]
    return tuple(cells)


def _median(error: FloatArray) -> str:
    return f"{np.median(np.abs(error)):.1%}"


def _error(numbers: dict[str, float], key: str) -> float:
    return numbers[key] / numbers[f"measured_{key}"] - 1.0


def _absolute(numbers: dict[str, float], prefix: str) -> tuple[str, ...]:
    ttft, tpot, e2e, rate = (numbers[f"{prefix}{key}"] for key in _MEANS.values())
    return f"{ttft:.1f} s", f"{1e3 * tpot:.1f} ms", f"{e2e:.1f} s", f"{rate:,.0f}"


def _gauges(numbers: dict[str, float]) -> tuple[str, str]:
    return f"{numbers['mean_running']:.1f}", f"{numbers['mean_waiting']:.1f}"


def _blocks(name: str) -> str:
    blocks = SETS[name].num_gpu_blocks
    return "not recorded" if blocks is None else f"{blocks:,}"


def _title(source: str) -> str:
    kind, _, rest = source.partition(", ")
    return ", ".join(filter(None, (TITLES.get(kind, kind), rest)))
