"""vLLM's `/metrics`: one page or two to `Facts`. The names are those of vLLM 0.32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from fluidgate.bounds import MOST_NUMBER
from fluidgate.doctor.exposition import Sample, parse
from fluidgate.doctor.facts import Facts, GateFacts, Moment
from fluidgate.doctor.histogram import Histogram, went_backwards
from fluidgate.errors import InputError

RUNNING, WAITING, KV_USE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
BY_REASON, CONFIG = "vllm:num_requests_waiting_by_reason", "vllm:cache_config_info"
FINISHED, PREEMPTIONS = "vllm:request_success_total", "vllm:num_preemptions_total"
GAUGES = (RUNNING, WAITING, KV_USE)
NEEDED = (*GAUGES, FINISHED, PREEMPTIONS)
STEPS = "vllm:iteration_tokens_total_count"
LENGTHS = ("request_prompt_tokens", "request_generation_tokens")
HISTOGRAMS = (
    *LENGTHS,
    "iteration_tokens_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
)
OTHER_ENGINES = {
    "sglang": "SGLang",
    "tgi_": "Text Generation Inference",
    "nv_trt_llm": "TensorRT-LLM",
    "trtllm": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
    "llamacpp": "llama.cpp",
    "ray_": "Ray",
}
FEWEST_REQUESTS = 30
"""With fewer finished between two scrapes the law of lengths is taken from the whole run."""


@dataclass(frozen=True, eq=False)
class Scrape:
    """One page of a vLLM server's metrics.

    Attributes:
        where: file or address.
        samples: its lines.
        taken_s: when, seconds since the epoch; None if unknown.
    """

    where: str
    samples: list[Sample]
    taken_s: float | None = None

    @classmethod
    def of(cls, text: str, where: str, taken_s: float | None = None) -> Scrape:
        """Read a page.

        Raises:
            InputError: not a page of metrics, another engine's, several servers', or a value that cannot be.
        """
        if text.lstrip().startswith(("<", "{", "[")):
            raise InputError(f"{where}: is not a page of metrics but HTML or JSON; the address ends in /metrics")
        scrape = cls(where, parse(text, where), taken_s)
        scrape._refuse_foreign()
        return scrape

    @cached_property
    def _by_name(self) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.name, []).append(sample)
        return found

    def _refuse_foreign(self) -> None:
        if not any(name.startswith("vllm:") for name in self._by_name):
            others = [
                title for name in self._by_name for prefix, title in OTHER_ENGINES.items() if name.startswith(prefix)
            ]
            whose = f"are {others[0]}'s" if others else "name no engine"
            raise InputError(
                f"{self.where}: the metrics {whose}; fluidgate reads vLLM's, whose names begin with 'vllm:'"
            )
        missing = [name for name in NEEDED if name not in self._by_name]
        # Where several processes share the page, vLLM shows its gauges from the first step on.
        fresh = STEPS in self and self.total(STEPS) == 0 and set(missing) <= set(GAUGES)
        if missing and not fresh:
            raise InputError(
                f"{self.where}: has no {missing[0]}; fluidgate reads the names of vLLM 0.32, and whole pages"
            )
        if len(self.models) > 1:
            raise InputError(
                f"{self.where}: holds the metrics of several servers ({', '.join(sorted(self.models))}); scrape one"
            )

    @property
    def models(self) -> set[str]:
        """Names of the models served."""
        return {sample.labels.get("model_name", "") for name in NEEDED for sample in self._by_name.get(name, [])}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def total(self, name: str, **labels: str) -> float:
        """The value summed over engines and labels; 0 where there is none.

        Raises:
            InputError: a value that is no amount.
        """
        return sum(self._amounts(name, labels).values())

    def highest(self, name: str, **labels: str) -> float:
        """The value of the engine that has most; 0 where there is none."""
        return max(self._amounts(name, labels).values(), default=0.0)

    def per_engine(self, name: str, **labels: str) -> dict[str, float]:
        """The value of each engine, summed over other labels."""
        return self._amounts(name, labels)

    def _amounts(self, name: str, labels: dict[str, str]) -> dict[str, float]:
        amounts: dict[str, float] = {}
        for sample in self._by_name.get(name, []):
            if not 0 <= sample.value <= MOST_NUMBER:
                raise InputError(
                    f"{self.where}, line {sample.line}: {name} = {sample.value:g} must be a finite number of at least 0"
                    f" and at most {MOST_NUMBER:g}"
                )
            if labels.items() <= sample.labels.items():
                engine = sample.labels.get("engine", "0")
                amounts[engine] = amounts.get(engine, 0.0) + sample.value
        return amounts

    def histogram(self, name: str) -> Histogram | None:
        """The histogram summed over engines; None if the page has none of that name."""
        merged: Histogram | None = None
        where = f"{self.where}: vllm:{name}"
        totals = self.per_engine(f"vllm:{name}_sum")
        for engine, buckets in self._buckets(f"vllm:{name}_bucket").items():
            one = Histogram.of_cumulative(list(buckets), list(buckets.values()), totals.get(engine, inf), where)
            merged = one if merged is None else merged.plus(one, where)
        return merged

    def _buckets(self, name: str) -> dict[str, dict[float, float]]:
        engines: dict[str, dict[float, float]] = {}
        for sample in self._by_name.get(name, []):
            try:
                edge = float(sample.labels["le"])
            except (KeyError, ValueError):
                raise InputError(
                    f"{self.where}, line {sample.line}: a bucket needs a number as its label 'le'"
                ) from None
            buckets = engines.setdefault(sample.labels.get("engine", "0"), {})
            buckets[edge] = buckets.get(edge, 0.0) + sample.value
        return engines

    def moments(self) -> tuple[Moment, ...]:
        """What runs and waits, per engine. Requests deferred for other reasons than capacity do not wait for it."""
        running = self.per_engine(RUNNING) or dict.fromkeys(self.per_engine(FINISHED), 0.0)
        kv_use = self.per_engine(KV_USE)
        waiting = self.per_engine(BY_REASON, reason="capacity") or self.per_engine(WAITING)
        if max(kv_use.values(), default=0.0) > 1.0 + 1e-6:
            raise InputError(f"{self.where}: {KV_USE} = {max(kv_use.values()):g} must be a share of at most 1")
        return tuple(
            Moment(engine, count, waiting.get(engine, 0.0), kv_use.get(engine, 0.0))
            for engine, count in running.items()
        )

    def in_system(self) -> float:
        """Requests that run or wait, over all engines."""
        return self.total(RUNNING) + self.total(WAITING)

    def setting(self, name: str) -> str | None:
        """A value of vLLM's cache configuration; None where it is not stated."""
        for sample in self._by_name.get(CONFIG, []):
            value = sample.labels.get(name)
            if value not in (None, "None"):
                return value
        return None

    def count(self, name: str) -> int | None:
        """A number of blocks or tokens among those values; None where it is not stated.

        Raises:
            InputError: it is no number, or none that a machine can have.
        """
        text = self.setting(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 12):
            raise InputError(
                f"{self.where}: {CONFIG} holds a {name} that is no number of blocks or tokens; scrape the page again"
            )
        return int(text)

    def age_s(self) -> float | None:
        """Seconds since the server's process started; None if the page or the time of the scrape does not tell."""
        start = self.total("process_start_time_seconds")
        return self.taken_s - start if self.taken_s is not None and 0.0 < start < self.taken_s else None


def facts_of(
    scrape: Scrape, earlier: Scrape | None = None, apart_s: float | None = None, between: Sequence[Scrape] = ()
) -> Facts:
    """What a scrape says since the server's start, or two scrapes about the time between them.

    Args:
        earlier: a scrape of the same run, taken before.
        apart_s: seconds between the two; None if unknown, so that nothing can be said per second.
        between: scrapes in between, of which only the moments count.

    Raises:
        InputError: a counter fell between the scrapes, or they are of different servers.
    """
    later = _Window(scrape, earlier)
    histograms = later.histograms()
    scrapes = (*((earlier,) if earlier else ()), *between, scrape)
    prompt_tokens = later.added("vllm:prompt_tokens_by_source_total", source="local_compute")
    if "vllm:prompt_tokens_by_source_total" not in scrape:
        prompt_tokens = later.added("vllm:prompt_tokens_total")
    finished = later.added(FINISHED)
    grown = scrape.in_system() - (earlier.in_system() if earlier else 0.0)
    facts = Facts(
        source=_source(scrape, earlier, apart_s),
        moments=tuple(moment for one in scrapes for moment in one.moments()),
        window_s=apart_s if earlier else scrape.age_s(),
        arrivals=max(0.0, finished + grown),
        finished=finished,
        preemptions=later.added(PREEMPTIONS),
        computed_tokens=prompt_tokens + later.added("vllm:generation_tokens_total"),
        histograms=histograms,
        prefix_queries=later.added("vllm:prefix_cache_queries_total"),
        prefix_hits=later.added("vllm:prefix_cache_hits_total"),
        gate=_gate(scrape, later),
        notes=later.notes,
    )
    return _with_settings(facts, scrape)


class _Window:
    """What the counters of two scrapes added between them; with one, since the start."""

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

    def histograms(self) -> dict[str, Histogram]:
        found = {}
        for name in HISTOGRAMS:
            now = self.scrape.histogram(name)
            before = self.earlier.histogram(name) if self.earlier else None
            if now is not None:
                found[name] = now if before is None else now.since(before, f"vllm:{name}")
        few = self.earlier is not None and any(found[name].count < FEWEST_REQUESTS for name in LENGTHS if name in found)
        if few:
            whole = {name: self.scrape.histogram(name) for name in LENGTHS}
            found |= {name: one for name, one in whole.items() if one is not None}
            self.notes += (
                f"Fewer than {FEWEST_REQUESTS} requests finished between the scrapes: the lengths are those of the "
                "whole run. Scrapes further apart show the present ones.",
            )
        return found


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


def _with_settings(facts: Facts, scrape: Scrape) -> Facts:
    """What `cache_config_info` states; its labels are texts, and a version may leave any of them out."""
    num_gpu_blocks, block_size = scrape.count("num_gpu_blocks"), scrape.count("block_size")
    share, caching = scrape.setting("gpu_memory_utilization"), scrape.setting("enable_prefix_caching")
    try:
        gpu_memory_utilization = share and float(share)
    except ValueError:
        raise InputError(f"{scrape.where}: {CONFIG} holds a label that is no number; scrape the page again") from None
    known = replace(
        facts,
        gpu_memory_utilization=gpu_memory_utilization or None,
        prefix_caching=None if caching is None else caching == "True",
        kv_cache_dtype=scrape.setting("cache_dtype"),
    )
    if not num_gpu_blocks or not block_size:
        note = f"The page does not state the size of the KV cache ({CONFIG}): give --num-gpu-blocks and --block-size."
        return replace(known, notes=(*known.notes, note))
    return known.with_kv(num_gpu_blocks, block_size)
