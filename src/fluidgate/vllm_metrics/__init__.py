"""What a vLLM server says of itself: its page of metrics, how it is fetched, and its log."""

from fluidgate.vllm_metrics.address import Address
from fluidgate.vllm_metrics.histogram import Histogram
from fluidgate.vllm_metrics.kv_size import KvSize, kv_size
from fluidgate.vllm_metrics.log import ServerLog, read_log
from fluidgate.vllm_metrics.moment import Moment
from fluidgate.vllm_metrics.saved import read_page, saved_page
from fluidgate.vllm_metrics.scrape import Scrape, fetch, fetch_all, fetch_version

__all__ = [
    "Address",
    "Histogram",
    "KvSize",
    "Moment",
    "Scrape",
    "ServerLog",
    "fetch",
    "fetch_all",
    "fetch_version",
    "kv_size",
    "read_log",
    "read_page",
    "saved_page",
]
