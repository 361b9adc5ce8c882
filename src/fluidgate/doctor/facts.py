"""`Facts`: what a scrape or a log says about a server, in one shape for both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_KV_TOKENS, check_whole
from fluidgate.errors import InputError
from fluidgate.vllm_metrics.histogram import Histogram
from fluidgate.vllm_metrics.log import USUAL_BLOCK_SIZE
from fluidgate.vllm_metrics.moment import Moment

_RELEASE = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?!\d)", re.ASCII)


@dataclass(frozen=True)
class GateFacts:
    """fluidgate's own metrics, where its scheduler runs; see docs/deploy.md."""

    fallbacks: float
    held: float
    computed_tokens: float
    recomputed_tokens: float
    longest_silence_s: float
    predicted_peak: float


@dataclass(frozen=True, eq=False)
class Facts:
    """A server as its metrics or its log show it. None: the source does not say.

    Attributes:
        source: what was read, and the time it covers, in words.
        moments: what ran and waited, once per engine and scrape or line of the log.
        stands_still: whether requests ran at all moments and no token was computed in the time.
        window_s: seconds that the counters cover.
        arrivals, finished: requests in that time.
        preemptions: in that time.
        computed_tokens: prompt tokens computed and tokens generated; recomputed ones are not among them.
        histograms: by vLLM's name without its `vllm:`.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache, and found.
        unfinished_prompt_tokens, unfinished_tokens: of requests that run, or were aborted since the server's start:
            prompts, and prompts with what they have generated; 0 where the page does not tell, infinite where requests
            may hold KV that is not counted yet.
        num_gpu_blocks, block_size, kv_tokens: KV memory of one engine.
        several_kv_groups: whether layers keep their KV in several groups.
        kv_source: who says so, in words.
        speculative, tokens_per_step: whether it decodes speculatively, and the tokens that a request gets in a step
            which gives it any.
        sliding_window: the most tokens that any layer keeps of a request; None without a limit.
        gpu_memory_utilization, prefix_caching, kv_cache_dtype: settings, as the server states them.
        max_num_seqs, max_num_batched_tokens: settings, as the user or the log states them.
        model, version: of the server and of its vLLM, as it states them.
        release: the release of its vLLM, or the newest that has such a page; None if neither is known.
        failed: requests that ended in an error, or were aborted and counted, by vLLM's reason.
        abandoned: requests that began and neither finished nor run, which no metric of vLLM counts.
        servers: how many these are the facts of.
        server: what tells it from others of its page, or its address or file.
        gate: what fluidgate's scheduler says.
        notes: what cannot be determined, why, and what to do.
    """

    source: str
    moments: tuple[Moment, ...]
    stands_still: bool = False
    window_s: float | None = None
    arrivals: float | None = None
    finished: float | None = None
    preemptions: float | None = None
    computed_tokens: float | None = None
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    unfinished_prompt_tokens: float = 0.0
    unfinished_tokens: float = 0.0
    num_gpu_blocks: int | None = None
    block_size: int | None = None
    kv_tokens: float | None = None
    several_kv_groups: bool = False
    kv_source: str = "the page"
    sliding_window: int | None = None
    speculative: bool = False
    tokens_per_step: float = 1.0
    gpu_memory_utilization: float | None = None
    prefix_caching: bool | None = None
    kv_cache_dtype: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    model: str | None = None
    version: str | None = None
    release: tuple[int, int] | None = None
    failed: Mapping[str, float] = field(default_factory=dict)
    abandoned: float = 0.0
    servers: int = 1
    server: str = ""
    gate: GateFacts | None = None
    notes: tuple[str, ...] = ()

    @property
    def engines(self) -> int:
        """Data-parallel engines behind the server, each with a KV cache of its own."""
        return len({moment.engine for moment in self.moments})

    @property
    def busy(self) -> tuple[Moment, ...]:
        """The moments with work."""
        return tuple(moment for moment in self.moments if moment.running + moment.waiting > 0)

    @property
    def running(self) -> float:
        """Mean running requests per engine at moments with work; 0 without any."""
        return fmean(moment.running for moment in self.busy) if self.busy else 0.0

    @property
    def waiting(self) -> float:
        """Mean waiting requests per engine at moments with work; 0 without any."""
        return fmean(moment.waiting for moment in self.busy) if self.busy else 0.0

    @property
    def all_running(self) -> float:
        """Mean running requests of all engines together, at all moments; 0 without any."""
        return self.engines * fmean(moment.running for moment in self.moments) if self.moments else 0.0

    @property
    def all_waiting(self) -> float:
        """Mean waiting requests of all engines together, at all moments; 0 without any."""
        return self.engines * fmean(moment.waiting for moment in self.moments) if self.moments else 0.0

    @property
    def kv_use(self) -> float:
        """Mean share of KV blocks in use at moments with work; 0 without any."""
        return fmean(moment.kv_use for moment in self.busy) if self.busy else 0.0

    @property
    def rate(self) -> float | None:
        """Arrivals, req/s, over all engines."""
        return None if self.arrivals is None or not self.window_s else self.arrivals / self.window_s

    @property
    def preemptions_per_request(self) -> float | None:
        """Preemptions per finished request; None where either is unknown, or none finished."""
        return self.preemptions / self.finished if self.preemptions is not None and self.finished else None

    def histogram(self, name: str) -> Histogram | None:
        """The histogram, if it is there and holds values."""
        histogram = self.histograms.get(name)
        return histogram if histogram is not None and histogram.count else None

    def with_kv(
        self,
        num_gpu_blocks: int,
        block_size: int,
        kv_tokens: float | None = None,
        *,
        several_groups: bool = False,
        source: str = "the page",
    ) -> Facts:
        """With the KV memory of one engine as vLLM counts it: one of the blocks is the null block.

        Args:
            kv_tokens: that fit; by default those of all blocks but the null block.
            several_groups: whether layers keep their KV in several groups.
            source: who says so, in words.

        Raises:
            InputError: no room for KV.
        """
        if num_gpu_blocks < 2 or block_size < 1:
            raise InputError(
                f"a KV cache of num_gpu_blocks = {num_gpu_blocks} and block_size = {block_size} holds nothing; "
                "give at least 2 blocks of at least 1 token"
            )
        check_whole("num_gpu_blocks", num_gpu_blocks, 2)
        check_whole("block_size", block_size, 1, MAX_BLOCK_SIZE)
        return replace(
            self,
            num_gpu_blocks=num_gpu_blocks,
            block_size=block_size,
            kv_tokens=float((num_gpu_blocks - 1) * block_size) if kv_tokens is None else kv_tokens,
            several_kv_groups=several_groups,
            kv_source=source,
        )

    def with_kv_tokens(self, kv_tokens: int, block_size: int | None = None) -> Facts:
        """With the size of an engine's KV cache as its log prints it ("GPU KV cache size"), in place of the page's.

        Args:
            block_size: by default the one known, or vLLM's usual one.

        Raises:
            InputError: no room for KV.
        """
        size = block_size or self.block_size or USUAL_BLOCK_SIZE
        check_whole("kv_cache_tokens", kv_tokens, 1, MAX_KV_TOKENS)
        return self.with_kv(
            1 + kv_tokens // size,
            size,
            float(kv_tokens),
            several_groups=self.several_kv_groups,
            source="--kv-cache-tokens",
        )

    def of_version(self, version: str | None) -> Facts:
        """With the version of vLLM that the server or the user states, in place of what the names on a page tell."""
        match = _RELEASE.match(version or "")
        return replace(self, version=version, release=(int(match[1]), int(match[2]))) if match else self

    def without_kv(self) -> Facts:
        """With the size of the KV cache unknown."""
        return replace(self, num_gpu_blocks=None, kv_tokens=None)
