"""One page of a vLLM server's metrics, or two, to `Facts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from fluidgate.doctor.facts import Facts, GateFacts
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.histogram import Histogram, went_backwards
from fluidgate.vllm_metrics.kv_size import kv_size
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.vllm_metrics.names import CONFIG, DRAFTS, FINISHED, PREEMPTIONS, RUNNING
from fluidgate.vllm_metrics.scrape import Scrape

LENGTHS = ("request_prompt_tokens", "request_generation_tokens")
HISTOGRAMS = (
    *LENGTHS,
    "iteration_tokens_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
)
SPECULATION = (
    "The server decodes speculatively: a step gives a request several tokens. The rate that the KV memory allows "
    "counts them; the stability boundary does not. fluidgate's scheduler does not run there."
)
PROMPT_TOKENS = ("vllm:prompt_tokens_total", "vllm:prompt_tokens_by_source_total")
FIRST_TOKENS = "vllm:time_to_first_token_seconds_count"
NO_PREEMPTIONS = "Cannot tell preemptions: this release of vLLM does not count them."
FAILURES = ("error", "abort")
FEW, MANY_ABANDONED = 5.0, 0.05
"""Fewer, or a smaller share of those that finished, may be a matter of when a counter was read."""

STILL_S = 5.0
"""An engine that has computed nothing for so long, with requests that run, stands still."""

MIN_REQUESTS = 30
"""With fewer finished between two scrapes the law of lengths is taken from the whole run."""


def facts_of(
    scrape: Scrape, earlier: Scrape | None = None, apart_s: float | None = None, between: Sequence[Moment] = ()
) -> Facts:
    """What a scrape says since the server's start, or two scrapes about the time between them.

    Args:
        earlier: a scrape of the same run, taken before.
        apart_s: seconds between the two; None if unknown, so that nothing can be said per second.
        between: what ran and waited at looks in between.

    Raises:
        InputError: a counter fell between the scrapes, or they are of different servers.
    """
    later = _Window(scrape, earlier)
    histograms = later.histograms()
    prompt_tokens = later.added("vllm:prompt_tokens_by_source_total", source="local_compute")
    if "vllm:prompt_tokens_by_source_total" not in scrape:
        prompt_tokens = later.added("vllm:prompt_tokens_total")
    finished = later.added(FINISHED)
    grown = scrape.in_system() - (earlier.in_system() if earlier else 0.0)
    abandoned = later.abandoned(finished, histograms.get("request_prompt_tokens"))
    if PREEMPTIONS not in scrape:
        later.notes += (NO_PREEMPTIONS,)
    moments = (*(earlier.moments() if earlier else ()), *between, *scrape.moments())
    computed = prompt_tokens + later.added("vllm:generation_tokens_total")
    still = (apart_s or 0.0) >= STILL_S and not computed and not finished
    facts = Facts(
        source=_source(scrape, earlier, apart_s),
        moments=moments,
        stands_still=still and all(moment.running for moment in moments),
        window_s=apart_s if earlier else scrape.age_s(),
        arrivals=max(0.0, finished + grown) + abandoned,
        finished=finished,
        preemptions=later.added(PREEMPTIONS) if PREEMPTIONS in scrape else None,
        computed_tokens=computed,
        histograms=histograms,
        prefix_queries=later.added("vllm:prefix_cache_queries_total"),
        prefix_hits=later.added("vllm:prefix_cache_hits_total"),
        model=next(iter(scrape.models - {""}), None),
        release=scrape.newest_release,
        failed={reason: later.added(FINISHED, finished_reason=reason) for reason in FAILURES},
        abandoned=abandoned,
        server=scrape.where,
        gate=_gate(scrape, later),
        notes=later.notes,
    )
    if any(name in scrape for name in DRAFTS):
        facts = _with_speculation(facts)
    return _with_settings(_with_unfinished(facts, scrape), scrape)


class _Window:
    """How much the counters grew between two scrapes, or with one since the start."""

    def __init__(self, scrape: Scrape, earlier: Scrape | None) -> None:
        self.scrape, self.earlier = scrape, earlier
        self.notes: tuple[str, ...] = ()
        if earlier is not None and earlier.models != scrape.models:
            names = f"{', '.join(earlier.models)} and {', '.join(scrape.models)}"
            raise InputError(f"{earlier.where}, {scrape.where}: are of two servers ({names}); scrape one server twice")

    def added(self, name: str, **labels: str) -> float:
        """How much a counter grew."""
        now = self.scrape.total(name, **labels)
        if self.earlier is None:
            return now
        before = self.earlier.total(name, **labels)
        if now < before:
            raise InputError(went_backwards(name, before, now))
        return now - before

    def abandoned(self, finished: float, prompts: Histogram | None) -> float:
        """Requests that began and neither finished nor run: vLLM counts what is aborted in no metric of requests.

        Those that began are counted by their first tokens and by their prompts; the smaller number counts.
        """
        running = self.scrape.total(RUNNING) - (self.earlier.total(RUNNING) if self.earlier else 0.0)
        name = next(name for name in PROMPT_TOKENS if name in self.scrape or name == PROMPT_TOKENS[-1])
        begun = [self.added(name) for name in (FIRST_TOKENS,) if name in self.scrape]
        if prompts is not None and prompts.total:
            begun.append(self.added(name) / prompts.mean)
        left = min(begun, default=0.0) - finished - running
        return left if left > max(FEW, MANY_ABANDONED * finished) else 0.0

    def histograms(self) -> dict[str, Histogram]:
        histograms = {}
        for name in HISTOGRAMS:
            now = self.scrape.histogram(name)
            before = self.earlier.histogram(name) if self.earlier else None
            if now is not None:
                histograms[name] = now if before is None else now.since(before, f"vllm:{name}")
        few = self.earlier is not None and any(
            histograms[name].count < MIN_REQUESTS for name in LENGTHS if name in histograms
        )
        if few:
            whole = {name: self.scrape.histogram(name) for name in LENGTHS}
            histograms |= {name: histogram for name, histogram in whole.items() if histogram is not None}
            self.notes += (
                f"Fewer than {MIN_REQUESTS} requests finished between the scrapes: the lengths are those of the "
                "whole run. Scrapes further apart show the present ones.",
            )
        return histograms


def _source(scrape: Scrape, earlier: Scrape | None, apart_s: float | None) -> str:
    if earlier is None:
        return f"{scrape.where}, since the server's start"
    between = "" if apart_s is None else f" {apart_s:g} s apart"
    return (
        f"{scrape.where}, two scrapes{between}"
        if earlier.where == scrape.where
        else (f"{earlier.where} and {scrape.where}{',' if between else ''}{between}")
    )


def _gate(scrape: Scrape, window: _Window) -> GateFacts | None:
    if "fluidgate_fallbacks_total" not in scrape:
        return None
    return GateFacts(
        fallbacks=scrape.total("fluidgate_fallbacks_total"),
        held=scrape.total("fluidgate_held_requests"),
        computed_tokens=window.added("fluidgate_computed_tokens_total"),
        recomputed_tokens=window.added("fluidgate_recomputed_tokens_total"),
        longest_silence_s=scrape.highest("fluidgate_longest_silence_seconds"),
        predicted_peak=scrape.highest("fluidgate_predicted_peak_kv_share"),
    )


def _with_speculation(facts: Facts) -> Facts:
    """A gap is one per request and step that gave tokens, however many; the first token of a request ends none."""
    gaps, outputs = facts.histogram("inter_token_latency_seconds"), facts.histogram("request_generation_tokens")
    facts = replace(facts, speculative=True, notes=(*facts.notes, SPECULATION))
    if gaps is None or outputs is None:
        return facts
    per_step = max(1.0, (outputs.total - outputs.count) / gaps.count)
    return replace(facts, tokens_per_step=per_step)


def _with_unfinished(facts: Facts, scrape: Scrape) -> Facts:
    """Prompts are counted with their first token, outputs as they grow, and both again in the lengths when they end."""
    prompt = next((total for name in PROMPT_TOKENS if (total := scrape.total(name))), 0.0)
    ended = [scrape.histogram(name) for name in LENGTHS]
    prompts, outputs = (0.0 if histogram is None else histogram.total for histogram in ended)
    unfinished = max(0.0, prompt - prompts)
    grown = max(0.0, scrape.total("vllm:generation_tokens_total") - outputs)
    fetches = scrape.total("vllm:prompt_tokens_by_source_total", source="external_kv_transfer") > 0
    tokens = inf if fetches else unfinished + grown  # those that wait for KV of other servers hold it uncounted
    return replace(facts, unfinished_prompt_tokens=unfinished, unfinished_tokens=tokens)


def _with_settings(facts: Facts, scrape: Scrape) -> Facts:
    """What `cache_config_info` states; its labels are strings, and a version may leave any of them out."""
    share, caching = scrape.setting("gpu_memory_utilization"), scrape.setting("enable_prefix_caching")
    window = scrape.setting("sliding_window")
    try:
        gpu_memory_utilization = share and float(share)
    except ValueError:
        raise InputError(f"{scrape.where}: {CONFIG} holds a label that is no number; scrape the page again") from None
    facts = replace(
        facts,
        gpu_memory_utilization=gpu_memory_utilization or None,
        prefix_caching=None if caching is None else caching == "True",
        kv_cache_dtype=scrape.setting("cache_dtype"),
        sliding_window=int(window) if window and window.isdecimal() and len(window) < 10 else None,
    )
    size = kv_size(scrape)
    if size is None:
        note = f"The page does not state the size of the KV cache ({CONFIG}): give --kv-cache-tokens, as in the log."
        return replace(facts, notes=(*facts.notes, note))
    return facts.with_kv(size.num_gpu_blocks, size.block_size, size.tokens, several_groups=size.several_groups)
