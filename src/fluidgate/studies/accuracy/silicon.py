"""`silicon_sample.csv`: measured closed loops of many servers, as aiconfigurator-core ships them.

Each row is a server under a fixed number of requests in flight, with the mean TTFT and TPOT that its client saw. Most
come from InferenceX (formerly InferenceMAX): ten requests per seat, sent as fast as the limit allows; prompts and
outputs of 80 to 100% of the stated length, evenly; no prefix cache, 8,192 tokens in a step. The file says none of this,
but InferenceX's scripts do.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from fluidgate.errors import InputError

FILE = "silicon_sample.csv"
LEAST_CONCURRENCY, MOST_CONCURRENCY = 4, 128
INFERENCEX_LENGTHS, OTHER_LENGTHS = (0.8, 1.0), (0.9, 1.1)
"""Shortest and longest of the requests, as shares of the stated length. Nothing is known of the others but that their
TTFT shows no requests that end together, as equal ones would."""
_ANALYSED = "aic-auto-gap-analysis"
"""In the source of rows that are not InferenceX's."""
LLAMA, GPT_OSS = "meta-llama/Llama-3.1-70B", "openai/gpt-oss-120b"
"""Of the first the table names the checkpoint in 16 bits, but none was served in them."""
_DENSE = (LLAMA, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B")
_LLAMA_8B_FP8 = "nvidia/Llama-3.1-8B-Instruct-FP8"
"""aiconfigurator has the model, but not under this name; the checkpoint has 8-bit KV."""
_FP4_CHECKPOINTS = {
    "MiniMaxAI/MiniMax-M2.5": "nvidia/MiniMax-M2.5-NVFP4",
    "moonshotai/Kimi-K2.5": "nvidia/Kimi-K2.5-NVFP4",
}
_COLUMNS = ("model_path", "system", "precision", "tp_size", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")


@dataclass(frozen=True)
class Server:
    """What was measured: a model on so many GPUs, in a precision (as aiconfigurator names it).

    Attributes:
        model, system: as aiconfigurator spells them.
        expert_parallel: whole experts on each GPU.
        kv_cache_dtype: as vLLM's option, which InferenceX's scripts set.
    """

    model: str
    system: str
    tp: int
    expert_parallel: bool
    precision: str
    kv_cache_dtype: str

    @property
    def kind(self) -> str:
        """Of model."""
        return "dense" if self.model in _DENSE else "mixture of experts"


@dataclass(frozen=True)
class Measured:
    """A row: a server, a closed loop and what its client saw.

    Attributes:
        prompt_tokens, output_tokens: as stated.
        lengths: the shortest and the longest, as shares of these.
        concurrency: requests in flight.
        ttft_ms, tpot_ms: means.
    """

    server: Server
    prompt_tokens: int
    output_tokens: int
    lengths: tuple[float, float]
    concurrency: int
    ttft_ms: float
    tpot_ms: float

    @property
    def is_development(self) -> bool:
        """Whether what a step lacks may be learned from it: Llama-70B and gpt-oss on H100 and H200."""
        return self.server.model in (LLAMA, GPT_OSS) and self.server.system in ("h100_sxm", "h200_sxm")


def silicon_file() -> Path | None:
    """Where aiconfigurator-core has the table; None where it is not installed."""
    try:
        import aiconfigurator_core
    except ImportError:
        return None
    return Path(aiconfigurator_core.__path__[0], "systems", FILE)


def read_silicon(path: Path) -> list[Measured]:
    """The rows under vLLM with one replica of attention and 4 to 128 requests in flight, each once.

    Raises:
        InputError: not this table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror}") from None
    missing = [name for name in _COLUMNS if not table or name not in table[0]]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; give aiconfigurator-core's {FILE}")
    rows = (_row(values) for values in table if values["backend"] == "vllm" and values["mode"] == "agg")
    return sorted(dict.fromkeys(row for row in rows if row is not None), key=_order)


def _row(values: dict[str, str]) -> Measured | None:
    source = values["silicon_data_source"]
    concurrency = re.search(r"silicon_concurrency=(\d+)", source)
    if concurrency is None or values["attention_dp_size"] not in ("", "1"):
        return None
    if not LEAST_CONCURRENCY <= int(concurrency[1]) <= MOST_CONCURRENCY:
        return None
    return Measured(
        _server(values),
        int(values["isl"]),
        int(values["osl"]),
        OTHER_LENGTHS if _ANALYSED in source else INFERENCEX_LENGTHS,
        int(concurrency[1]),
        float(values["silicon_ttft_ms"]),
        float(values["silicon_tpot_ms"]),
    )


def _server(values: dict[str, str]) -> Server:
    model, system = values["model_path"], values["system"]
    if model == _LLAMA_8B_FP8:
        return Server("meta-llama/Llama-3.1-8B", system, int(values["tp_size"]), False, "fp8", "fp8")
    eight_bit_kv = model == LLAMA or (model == GPT_OSS and system == "b200_sxm")
    return Server(
        _FP4_CHECKPOINTS.get(model, model) if values["precision"] == "fp4" else model,
        system,
        int(values["tp_size"]),
        int(values["moe_ep_size"] or 1) > 1,
        {"fp8": "fp8", "fp4": "nvfp4"}[values["precision"]] if model == LLAMA else "auto",
        "fp8" if eight_bit_kv else "auto",
    )


def _order(row: Measured) -> tuple[object, ...]:
    server = row.server
    return (
        not row.is_development,
        (server.model, server.system, server.tp, server.expert_parallel, server.precision),
        (row.prompt_tokens, row.output_tokens, row.concurrency, row.ttft_ms),
    )
