"""A server's log to `Facts`."""

from __future__ import annotations

from dataclasses import replace

from fluidgate.doctor.facts import Facts
from fluidgate.vllm_metrics.log import ServerLog, read_log
from fluidgate.words import number

NO_PREEMPTIONS = (
    "Cannot tell preemptions: vLLM forgets their number before it logs it. Scrape /metrics instead: "
    "`fluidgate doctor http://HOST:8000`."
)
FIRST_ENGINE = "The log is of vLLM's first engine (V0)."
FIRST_ENGINES_LAST = (0, 10)
NO_LENGTHS = (
    "Cannot tell the lengths of requests, nor the stability boundary: a log has neither. Scrape /metrics instead."
)


def _of_the_lines(log: ServerLog) -> tuple[str, ...]:
    """What the lines do not say, and whether they are of an engine that had other flags."""
    notes = (FIRST_ENGINE,) if log.first_engine else ()
    if not log.left_out:
        return notes
    left_out = f"Left out {log.left_out:,} lines with requests but without a token: the engine stood still, or idled."
    return (*notes, left_out)


def facts_of_log(text: str, where: str) -> Facts:
    """What a server's log says.

    Raises:
        InputError: no line of statistics, one that cannot be read, or the logs of several runs in one file.
    """
    log = read_log(text, where)
    over = f" over {number(log.window_s)} s" if log.window_s else ""
    facts = Facts(
        source=f"{where}, {len(log.moments)} lines of statistics{over}",
        moments=log.moments,
        stands_still=log.stands_still,
        window_s=log.window_s,
        preemptions=None if log.preemptions is None else float(log.preemptions),
        kv_tokens=log.kv_tokens,
        max_num_seqs=log.max_num_seqs,
        max_num_batched_tokens=log.max_num_batched_tokens,
        model=log.model,
        server=where,
        notes=(*_of_the_lines(log), *(() if log.preemptions is not None else (NO_PREEMPTIONS,)), NO_LENGTHS),
    )
    if log.version is None and log.first_engine:
        return replace(facts, release=FIRST_ENGINES_LAST)
    return facts.of_version(log.version)
