"""`Scrape`: one page of a vLLM server's `/metrics`, and how it is fetched. The names are those of vLLM 0.32."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan
from urllib.parse import urlsplit

from fluidgate.bounds import MAX_NUMBER
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.address import DEADLINE_S, Address
from fluidgate.vllm_metrics.exposition import Sample, parse
from fluidgate.vllm_metrics.histogram import Histogram
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.words import shown

RUNNING, WAITING, KV_USE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
BY_REASON, CONFIG = "vllm:num_requests_waiting_by_reason", "vllm:cache_config_info"
FINISHED, PREEMPTIONS = "vllm:request_success_total", "vllm:num_preemptions_total"
GAUGES = (RUNNING, WAITING, KV_USE)
NEEDED = (*GAUGES, FINISHED, PREEMPTIONS)
OF_ONE_SERVER = ("engine", "model_name", "pid")
"""Labels in which the lines of one server may differ."""

STEPS = "vllm:iteration_tokens_total_count"
OLDER_NAMES = {
    "vllm:gpu_cache_usage_perc": KV_USE,
    "vllm:gpu_prefix_cache_queries_total": "vllm:prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_hits_total": "vllm:prefix_cache_hits_total",
} | {
    f"vllm:time_per_output_token_seconds_{part}": f"vllm:inter_token_latency_seconds_{part}"
    for part in ("bucket", "sum", "count")
}
"""Names of vLLM before 0.10, and what they are called now; some versions publish both."""

OTHER_ENGINES = {
    "sglang": "SGLang",
    "tgi_": "Text Generation Inference",
    "nv_trt_llm": "TensorRT-LLM",
    "trtllm": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
    "llamacpp": "llama.cpp",
    "ray_": "Ray",
}


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
        by_name: dict[str, list[Sample]] = {}
        for sample in self.samples:
            by_name.setdefault(sample.name, []).append(sample)
        for older, name in OLDER_NAMES.items():
            if older in by_name:
                by_name.setdefault(name, by_name[older])
        return by_name

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
        self._refuse_replicas()

    def _refuse_replicas(self) -> None:
        """A page that was federated or relabelled may hold several servers, each with an engine 0."""
        told: dict[tuple[str, str], set[str]] = {}
        for sample in self._by_name.get(RUNNING, []):
            for label, value in sample.labels.items():
                told.setdefault((sample.labels.get("engine", "0"), label), set()).add(value)
        for (_, label), values in told.items():
            if len(values) > 1 and label not in OF_ONE_SERVER:
                servers = ", ".join(f"{shown(label)} is {shown(value)}" for value in sorted(values)[:3])
                raise InputError(f"{self.where}: holds the metrics of several servers ({servers}); scrape one")

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
            if not 0 <= sample.value <= MAX_NUMBER:
                raise InputError(
                    f"{self.where}, line {sample.line}: {name} = {sample.value:g} must be a finite number of at least 0"
                    f" and at most {MAX_NUMBER:g}"
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
            histogram = Histogram.of_cumulative(list(buckets), list(buckets.values()), totals.get(engine, inf), where)
            merged = histogram if merged is None else merged.plus(histogram, where)
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

    def quantity(self, name: str) -> float | None:
        """Any other number among those values; None where it is not stated.

        Raises:
            InputError: it is no number above 0.
        """
        text = self.setting(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not 0.0 < value <= MAX_NUMBER:
            raise InputError(f"{self.where}: {CONFIG} holds a {name} that is no number above 0; scrape the page again")
        return value

    def labelled(self, name: str, label: str) -> set[str]:
        """The values that a label has in the lines of a name."""
        return {sample.labels[label] for sample in self._by_name.get(name, []) if label in sample.labels}

    def age_s(self) -> float | None:
        """Seconds since the server's process started; None if the page or the time of the scrape does not tell."""
        start = self.total("process_start_time_seconds")
        return self.taken_s - start if self.taken_s is not None and 0.0 < start < self.taken_s else None


def fetch(server: str | Address, *, deadline_s: float = DEADLINE_S) -> Scrape:
    """The page of metrics of a server that runs.

    Args:
        server: its address; the path is /metrics where it has none.
        deadline_s: for the whole page.

    Raises:
        InputError: not an address, no answer, an answer that is an error or no page of metrics.
    """
    address = server if isinstance(server, Address) else Address.of(server)
    page = address.at(urlsplit(address.url).path.rstrip("/") or "/metrics")
    text = page.get("text/plain; version=0.0.4", deadline_s=deadline_s).decode("utf-8", errors="replace")
    try:
        return Scrape.of(text, page.url, taken_s=time.time())
    except InputError as error:
        raise InputError(address.hide(str(error))) from None
