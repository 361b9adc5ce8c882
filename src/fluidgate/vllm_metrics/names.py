"""The names of vLLM's metrics, and what releases from 0.6 on called them, in one table."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

RUNNING, WAITING, KV_USE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
SWAPPED = "vllm:num_requests_swapped"
"""Of the first engine: requests whose KV lies in the CPU's memory until there is room again."""

BY_REASON, CONFIG = "vllm:num_requests_waiting_by_reason", "vllm:cache_config_info"
FINISHED, PREEMPTIONS = "vllm:request_success_total", "vllm:num_preemptions_total"
GAUGES = (RUNNING, WAITING, KV_USE)
NEEDED = (*GAUGES, FINISHED, PREEMPTIONS)
STEPS = "vllm:iteration_tokens_total_count"
DRAFTS = ("vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total")
"""Either says that the server decodes speculatively; the first engine counts tokens alone."""

HISTOGRAM = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Renamed:
    """A metric that had another name.

    Attributes:
        now, before: the names; of a histogram without `_bucket`, `_sum` and `_count`.
        until: the last release that has the older name alone, or both.
    """

    now: str
    before: str
    until: tuple[int, int]
    histogram: bool = False

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names of its lines, (before, now)."""
        return [(self.before + part, self.now + part) for part in (HISTOGRAM if self.histogram else ("",))]


RENAMED = (
    Renamed(KV_USE, "vllm:gpu_cache_usage_perc", (0, 10)),
    Renamed("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", (0, 10)),
    Renamed("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", (0, 10)),
    Renamed("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds", (0, 11), histogram=True),
    Renamed("vllm:request_queue_time_seconds", "vllm:time_in_queue_requests", (0, 8), histogram=True),
)
"""Some releases publish both names. Sources: vllm/engine/metrics.py of 0.6 to 0.10, vllm/v1/metrics/loggers.py."""

OLDER_NAMES = {before: now for renamed in RENAMED for before, now in renamed.pairs}


def newest_release(names: Container[str]) -> tuple[int, int] | None:
    """The newest vLLM that publishes such a page; None where the page has today's names."""
    return min(
        (
            renamed.until
            for renamed in RENAMED
            for before, now in renamed.pairs[-1:]
            if before in names and now not in names
        ),
        default=(0, 10) if SWAPPED in names else None,
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
"""How names of other engines begin."""
