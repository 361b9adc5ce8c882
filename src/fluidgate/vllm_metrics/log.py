"""vLLM's log: its periodic "Engine 000: Avg prompt throughput …" lines, of either engine, to `ServerLog`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_COUNT, MAX_KV_TOKENS
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.words import shown

MARK = "Avg prompt throughput:"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TIME = re.compile(r"\b(\d\d-\d\d \d\d:\d\d:\d\d)\b", re.ASCII)
_STATISTICS = re.compile(
    r"(?:(?:Engine (?P<engine>\d+)|(?P<engines>\d+) Engines Aggregated): )?"
    r"Avg prompt throughput: (?P<prompt>[\d.]+) tokens/s, Avg generation throughput: (?P<output>[\d.]+) tokens/s, "
    r"Running: (?P<running>\d+) reqs, Waiting: (?P<waiting>\d+) reqs(?:, Deferred: (?P<deferred>\d+) reqs)?.*?"
    r"(?:, Preemptions: (?P<preemptions>\d+))?,? \w+ KV cache usage: (?P<kv_use>\d+(?:\.\d+)?)%",
    re.ASCII,
)
"""Of the present engine; its first releases, 0.6 and 0.7, name no engine."""

_OLDER = re.compile(
    r"(?P<engine>)(?P<engines>)(?P<deferred>)(?P<preemptions>)"
    r"Avg prompt throughput: (?P<prompt>[\d.]+) tokens/s, Avg generation throughput: (?P<output>[\d.]+) tokens/s, "
    r"Running: (?P<running>\d+) reqs, Swapped: (?P<swapped>\d+) reqs, Pending: (?P<waiting>\d+) reqs, "
    r"\w+ KV cache usage: (?P<kv_use>\d+(?:\.\d+)?)%",
    re.ASCII,
)
"""The line of vLLM's first engine, up to 0.10."""

_CAPACITY = re.compile(r"\w+ KV cache size: (\d[\d,]*) tokens", re.ASCII)
_OLDER_BLOCKS = re.compile(r"# \w+ blocks: (\d+)", re.ASCII)
_OLDER_BLOCK_SIZE = re.compile(r"\bblock_size=(\d+)\b", re.ASCII)
_BUDGET = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)", re.ASCII)
_ARGUMENTS = re.compile(r"non-default args: (\{.*\})")
_VERSION = re.compile(r"(?:vLLM API server version|LLM engine \(v?|\bversion) ?(\d+\.\d+[\w.+-]*)", re.ASCII)
_MODEL = re.compile(r"'model': '([^']{1,200})'")
USUAL_BLOCK_SIZE = 16
"""vLLM's own, in tokens, where a log does not say."""

MAX_CHARACTERS = 16_384
"""Of a line that is looked at; vLLM's longest, with all its arguments, has a few thousand."""
YEAR_S = 366 * 86400.0
_OWN_LOG = "give vLLM's own log"


@dataclass(frozen=True)
class ServerLog:
    """What a server's log says. None: it does not say.

    Attributes:
        where: the file.
        moments: one for each line of statistics, but for those that stand still.
        first_engine: whether it is of vLLM's first engine, up to 0.10.
        left_out: lines that stand still: requests ran, and no token was computed.
        stands_still: whether all lines do; then they are the moments.
        window_s: from the first to the last of them.
        preemptions: as far as the lines count them.
        kv_tokens: KV memory of one engine.
        max_num_seqs, max_num_batched_tokens: settings of the last start.
        version: of vLLM, at the last start.
        model: its name or path, at the last start, where it is among the arguments.
    """

    where: str
    moments: tuple[Moment, ...]
    window_s: float | None
    preemptions: int | None
    first_engine: bool = False
    left_out: int = 0
    stands_still: bool = False
    kv_tokens: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    version: str | None = None
    model: str | None = None


def read_log(text: str, where: str) -> ServerLog:
    """Read a server's log.

    Raises:
        InputError: no line of statistics, one that cannot be read, or the logs of several runs in one file.
    """
    lines = [_COLOUR.sub("", line[:MAX_CHARACTERS]) for line in text.splitlines()]
    statistics = [
        (number_, line, _STATISTICS.search(line) or _OLDER.search(line))
        for number_, line in enumerate(lines, 1)
        if MARK in line
    ]
    if not statistics:
        raise InputError(
            f"{where}: holds no '{MARK}' line; vLLM writes one every 10 s under load, unless --disable-log-stats"
        )
    matches = []
    for at, line, match in statistics:
        if match is None:
            raise InputError(
                f"{where}, line {at}: {line.strip()[:80]!r} is not worded as vLLM 0.6 to 0.33 word their statistics"
            )
        matches.append(match)
    preemptions = [_count(match["preemptions"], "preemptions", where) for match in matches if match["preemptions"]]
    moving = [match for match in matches if not _stands_still(match)]
    log = ServerLog(
        where,
        moments=tuple(_moment(match, where) for match in moving or matches),
        first_engine="swapped" in matches[-1].groupdict(),
        left_out=len(matches) - len(moving) if moving else 0,
        stands_still=not moving,
        window_s=_window_s([line for _, line, _ in statistics], where),
        preemptions=sum(preemptions) if preemptions else None,
    )
    return _with_settings(log, lines)


def _count(digits: str, what: str, where: str, most: int = MAX_COUNT) -> int:
    digits = digits.replace(",", "")
    if len(digits.lstrip("0")) > len(str(most)) or int(digits) > most:
        raise InputError(f"{where}: {what} = {shown(digits)} must be at most {most:,}; {_OWN_LOG}")
    return int(digits)


def _stands_still(match: re.Match[str]) -> bool:
    """vLLM's gauges stay as they were when requests are aborted and nothing runs, and when the engine hangs."""
    return not match["prompt"].strip("0.") and not match["output"].strip("0.") and match["running"].strip("0") != ""


def _moment(match: re.Match[str], where: str) -> Moment:
    """One engine; the sums of an aggregate are divided evenly."""
    engines = max(1, _count(match["engines"] or "1", "engines", where))
    waiting = _count(match["waiting"], "waiting", where) - _count(match["deferred"] or "0", "deferred", where)
    if waiting < 0:
        raise InputError(f"{where}: {match['deferred']} requests deferred of {match['waiting']} that wait; {_OWN_LOG}")
    kv_use = float(match["kv_use"]) / 100.0
    if kv_use > 1.0:
        raise InputError(f"{where}: KV cache usage of {match['kv_use']}% must be at most 100%; {_OWN_LOG}")
    return Moment(
        engine=match["engine"] or "all",
        running=_count(match["running"], "running", where) / engines,
        waiting=(waiting + _count(match.groupdict().get("swapped") or "0", "swapped", where)) / engines,
        kv_use=kv_use,
    )


def _window_s(lines: list[str], where: str) -> float | None:
    """From the first to the last line; None without times. vLLM writes no year: 2000 has every date."""
    times = [time for line in lines if (time := _time(line)) is not None]
    if len(times) < 2:
        return None
    # at the turn of the year time goes back by most of one
    steps_s = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    steps_s = [step_s + YEAR_S if step_s < -YEAR_S / 2 else step_s for step_s in steps_s]
    if min(steps_s) < 0.0:
        raise InputError(f"{where}: time goes backwards between its lines; give the log of one run")
    return sum(steps_s) or None


def _time(line: str) -> datetime | None:
    match = _TIME.search(line)
    try:
        return datetime.strptime(f"2000-{match[1]}", "%Y-%m-%d %H:%M:%S") if match else None
    except ValueError:  # digits that are no date
        return None


def _with_settings(log: ServerLog, lines: list[str]) -> ServerLog:
    """The settings that the log states when the server starts; the last start counts."""
    where, block_size = log.where, USUAL_BLOCK_SIZE
    for line in lines:
        if match := _OLDER_BLOCK_SIZE.search(line):
            block_size = _count(match[1], "block_size", where, MAX_BLOCK_SIZE) or USUAL_BLOCK_SIZE
        if match := _OLDER_BLOCKS.search(line):
            log = replace(log, kv_tokens=float(_count(match[1], "blocks", where) * block_size))
        if match := _CAPACITY.search(line):
            log = replace(log, kv_tokens=float(_count(match[1], "KV cache size", where, MAX_KV_TOKENS)))
        if match := _BUDGET.search(line):
            log = replace(log, max_num_batched_tokens=_count(match[1], "max_num_batched_tokens", where))
        if match := _ARGUMENTS.search(line):
            named = _MODEL.search(match[1])
            log = replace(
                log,
                max_num_seqs=_argument(match[1], "max_num_seqs", where),
                max_num_batched_tokens=_argument(match[1], "max_num_batched_tokens", where),
                model=named[1] if named else None,
            )
        if match := _VERSION.search(line):
            log = replace(log, version=match[1])
    return log


def _argument(arguments: str, name: str, where: str) -> int | None:
    match = re.search(rf"'{name}': (\d+)\b", arguments, re.ASCII)
    return _count(match[1], name, where) if match else None
