"""`Summary`: the numbers of one run, each declared once with its label, unit, direction and format."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fluidgate.jsonfile import plain

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """How to show a number of a `Summary`.

    Attributes:
        key: its name there.
        label: its name for people, without the unit.
        unit: ms, s, tok/s, req/s, or empty for counts and shares.
        better: which direction is better; None if neither is.
        format: a format specification; shares are shown in percent.
    """

    key: str
    label: str
    unit: str
    better: Better | None
    format: str

    def text(self, value: float) -> str:
        """The value as it stands in tables, without its unit; a dash where there is none."""
        return format(value, self.format) if math.isfinite(value) else "–"


def _metric(label: str, unit: str, better: Better | None, spec: str) -> Any:
    return field(metadata={"label": label, "unit": unit, "better": better, "format": spec})


def _ms(label: str) -> Any:
    return _metric(label, "ms", "lower", ",.1f")


def _seconds(label: str, better: Better | None = "lower") -> Any:
    return _metric(label, "s", better, ",.2f")


def _count(label: str, better: Better | None = None) -> Any:
    return _metric(label, "", better, ",.0f")


def _share(label: str, better: Better | None = None) -> Any:
    return _metric(label, "", better, ".1%")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run in numbers; names follow `vllm bench serve`. NaN: no request has the quantity.

    Latencies are averages over the requests that have them, finished or not: TTFT needs a first token, TPOT and
    E2EL a last one (TPOT also a second), ITL is over all gaps between tokens. `aborted`, `shed`, `unfinished` and
    `refused` say how many requests are missing there. Rates are per second of `duration_s`, from the first arrival to
    the last token. Goodput is over all offered requests; one that was aborted or shed, did not finish, or was refused,
    misses the SLO.

    Attributes:
        output_throughput: all output tokens.
        effective_throughput: output tokens of completed requests.
        request_goodput, goodput_share: requests that met the SLO; NaN when none was set.
        offered: completed, aborted, shed, unfinished and refused requests.
        aborted: requests whose clients gave up; NaN, as are the four below, where nobody gives up.
        shed: requests that the policy gave up (`Policy.shed`).
        success_share: completed ÷ offered.
        wasted_tokens, wasted_share: tokens computed for requests aborted or shed, and their share of the busy time. An
            iteration's time is split over its requests by the tokens computed for each (`engine.patience.book_shares`).
        refused: requests with more tokens, prompt and output, than the model takes (`Workload.within`).
        recompute_tax: recomputed ÷ computed tokens.
        mean_longest_silence_s, p99_longest_silence_s, max_longest_silence_s: longest gap between two tokens of a
            request, over the requests with two tokens or more.
        stalled_share: those of them that were silent for more than a second.
        mean_held_s, p99_held_s: kept out by the policy and nothing else, over requests that were scheduled.
        mean_queued_s: arrival to first scheduled, over requests that were.
        kv_peak, kv_mean: KV blocks in use ÷ all, at most and on average over busy time.
        kv_above_90: share of busy time with more than 90% of them in use.
        cached_share: prompt tokens found in the prefix cache, of those of the requests that were scheduled.
        busy_share: time in iterations ÷ time from the first arrival to the end of the run, averaged over replicas.
        fluid_efficiency: share of the fluid bound, the least busy time that any policy needs for the requests that
            finished, ÷ busy time. The two losses below are the rest of it: the three add up to 1 (`busy_shares`).
        recompute_loss: busy time of work done again after evictions, and of KV read again for each chunk of a prompt.
        underuse_loss: busy time of iterations beyond the fewest that memory, token budget and seats allow. Below the
            load from which memory matters it is large and harmless: memory does not bind, and batches are small
            because few requests are there.
        stable, stability_reason: see `stability_verdict`; None: cannot tell.
        objectives: the values of the objectives that were given, in order.
    """

    mean_ttft_ms: float = _ms("TTFT, mean")
    median_ttft_ms: float = _ms("TTFT, median")
    p90_ttft_ms: float = _ms("TTFT, p90")
    p95_ttft_ms: float = _ms("TTFT, p95")
    p99_ttft_ms: float = _ms("TTFT, p99")
    mean_tpot_ms: float = _ms("TPOT, mean")
    median_tpot_ms: float = _ms("TPOT, median")
    p90_tpot_ms: float = _ms("TPOT, p90")
    p95_tpot_ms: float = _ms("TPOT, p95")
    p99_tpot_ms: float = _ms("TPOT, p99")
    mean_itl_ms: float = _ms("ITL, mean")
    median_itl_ms: float = _ms("ITL, median")
    p90_itl_ms: float = _ms("ITL, p90")
    p95_itl_ms: float = _ms("ITL, p95")
    p99_itl_ms: float = _ms("ITL, p99")
    mean_e2el_ms: float = _ms("E2E latency, mean")
    median_e2el_ms: float = _ms("E2E latency, median")
    p90_e2el_ms: float = _ms("E2E latency, p90")
    p95_e2el_ms: float = _ms("E2E latency, p95")
    p99_e2el_ms: float = _ms("E2E latency, p99")
    output_throughput: float = _metric("Output throughput", "tok/s", "higher", ",.0f")
    effective_throughput: float = _metric("Effective throughput", "tok/s", "higher", ",.0f")
    request_throughput: float = _metric("Request throughput", "req/s", "higher", ",.2f")
    request_goodput: float = _metric("Goodput", "req/s", "higher", ",.2f")
    goodput_share: float = _share("Requests that met the SLO", "higher")
    offered: int = _count("Requests offered")
    completed: int = _count("Requests completed", "higher")
    aborted: float = _count("Requests aborted by their clients", "lower")
    shed: float = _count("Requests shed by the policy")
    success_share: float = _share("Requests completed, of those offered", "higher")
    unfinished: int = _count("Requests unfinished", "lower")
    refused: int = _count("Requests refused as too long", "lower")
    wasted_tokens: float = _count("Tokens computed for requests aborted or shed", "lower")
    wasted_share: float = _share("Busy time spent on requests aborted or shed", "lower")
    preemptions: int = _count("Preemptions", "lower")
    preempted_requests: int = _count("Requests preempted", "lower")
    recomputed_tokens: int = _count("Recomputed tokens", "lower")
    computed_tokens: int = _count("Computed tokens", "lower")
    recompute_tax: float = _share("Recompute tax", "lower")
    mean_longest_silence_s: float = _seconds("Longest silence, mean")
    p99_longest_silence_s: float = _seconds("Longest silence, p99")
    max_longest_silence_s: float = _seconds("Longest silence, max")
    stalled_share: float = _share("Requests silent for more than 1 s", "lower")
    mean_held_s: float = _seconds("Held by the policy, mean")
    p99_held_s: float = _seconds("Held by the policy, p99")
    mean_queued_s: float = _seconds("Arrival to first scheduled, mean")
    kv_peak: float = _share("KV use, peak")
    kv_mean: float = _share("KV use, mean")
    kv_above_90: float = _share("Time with more than 90% of KV in use")
    cached_share: float = _share("Prompt tokens from the prefix cache", "higher")
    iterations: int = _count("Iterations")
    mean_iteration_ms: float = _metric("Iteration, mean", "ms", None, ",.1f")
    busy_share: float = _share("Time busy")
    fluid_efficiency: float = _share("Share of the fluid bound")
    recompute_loss: float = _share("Busy time lost to recomputation", "lower")
    underuse_loss: float = _share("Busy time lost to under-use")
    duration_s: float = _seconds("First arrival to last token", None)
    end_s: float = _seconds("End of the run", None)
    stable: bool | None
    stability_reason: str
    objectives: list[float] = field(default_factory=list, metadata={"json": False})

    @property
    def gives_up(self) -> bool:
        """Whether clients may give up, or the policy."""
        return not math.isnan(self.aborted)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by name, null where there is none; without `PATIENCE_METRICS` where no client gives up."""
        values = dict(plain(self, finite=True))
        return {key: value for key, value in values.items() if self.gives_up or key not in PATIENCE_METRICS}


PATIENCE_METRICS = ("aborted", "shed", "success_share", "wasted_tokens", "wasted_share")
"""Numbers of a `Summary` that are shown only where clients, or the policy, give up."""

SLO_METRICS = ("request_goodput", "goodput_share")
"""Numbers of a `Summary` that are there only where an SLO was set."""

METRICS: dict[str, Metric] = {f.name: Metric(f.name, **f.metadata) for f in fields(Summary) if "label" in f.metadata}
"""Every number of a `Summary`, by name, in order."""
