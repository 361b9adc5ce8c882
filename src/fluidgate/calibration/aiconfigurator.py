"""Step times of any model, GPU, engine and parallelism that aiconfigurator knows, as a `StepGrid`.

aiconfigurator-core (NVIDIA, Apache-2.0) adds up measured operators and refuses what it has not measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluidgate.arrays import FloatArray
from fluidgate.bounds import check_number, check_whole
from fluidgate.calibration.aiconfigurator_grid import draw_steps, query_grid
from fluidgate.calibration.points import StepPoints
from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.estimate import SEQUENCE_S
from fluidgate.hardware.fit import fit_step_grid
from fluidgate.hardware.gpus import (
    DEFAULT_MEMORY_UTILIZATION,
    GIB,
    canonical_gpu_name,
    check_kv_fits,
    check_memory_utilization,
    find_gpu,
    gpu_names,
)
from fluidgate.hardware.kv_groups import kv_law
from fluidgate.hardware.kv_law import KvDtype, KvLaw
from fluidgate.hardware.kv_layers import read_kv_layers, text_config
from fluidgate.hardware.model_config import canonical_model_name, stated_dtype
from fluidgate.hardware.model_length import model_length
from fluidgate.hardware.quantization import kv_dtype, read_kv_scheme, scheme_files
from fluidgate.hardware.server_defaults import ServerDefaults, server_defaults
from fluidgate.hardware.step_grid import StepGrid
from fluidgate.jsonfile import JsonObject, read_object

LIBRARY = "aiconfigurator-core"
MAX_LIMIT = 2**24
"""The largest value of any limit."""
ACTIVATION_BYTES = 2
"""Of an element that GPUs exchange."""
PREFILL_FACTOR = 1.06
"""A server's steps with a prefill over the sum of their operators: 363 ms over 341 were measured for 8,192 tokens
beside 248 decodes of Qwen3-14B under vLLM 0.23 on an H100."""
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads")
_MEMORY_KIND = {"trtllm": "of_free"}
"""TensorRT-LLM's memory fraction is of what the weights leave free; the others' is of the whole GPU."""


@dataclass(frozen=True)
class ServerLimits:
    """What the server allows. The grid reaches this far, and the KV memory is what these limits leave.

    Attributes:
        max_num_seqs: requests at once.
        max_num_batched_tokens: tokens in a step.
        max_model_len: tokens of prompt and output of one request.
        gpu_memory_utilization: share of the GPU's memory to use, in (0, 1].
    """

    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131072
    gpu_memory_utilization: float = DEFAULT_MEMORY_UTILIZATION

    def __post_init__(self) -> None:
        for name, least in (("max_num_seqs", 2), ("max_num_batched_tokens", 64), ("max_model_len", 256)):
            if not least <= getattr(self, name) <= MAX_LIMIT:
                raise InputError(f"{name} = {getattr(self, name)} must be at least {least} and at most {MAX_LIMIT:,}")
        check_memory_utilization(self.gpu_memory_utilization)


@dataclass(frozen=True, eq=False)
class QueriedHardware:
    """A machine with a grid, and steps to check it with.

    Attributes:
        hardware: the machine.
        points: steps as the source of the grid gives them, the GPUs' time alone; aiconfigurator's are drawn between the
            knots.
        interpolated_s: the same steps looked up in the grid's tables, shape (n,), seconds.
    """

    hardware: Hardware
    points: StepPoints
    interpolated_s: FloatArray

    @property
    def interpolation_error(self) -> FloatArray:
        """`|interpolated/queried − 1|` of each step, shape (n,)."""
        error: FloatArray = abs(self.interpolated_s / self.points.duration_s - 1.0)
        return error


@dataclass(frozen=True)
class Spread:
    """How a model lies on its GPUs, and in which precision.

    Attributes:
        tp: tensor-parallel GPUs.
        attention_dp: replicas of attention, each with its own scheduler and KV cache, over which the experts are
            spread; a machine is one of them.
        expert_parallel: give each GPU whole experts instead of slices of all of them.
        precision: of matrices, as aiconfigurator names it (bfloat16, fp8, fp8_block …); `auto`: the checkpoint's.
        kv_cache_dtype: as vLLM's option of this name.
        block_size: tokens per KV block; beside states, vLLM takes larger ones.
        link_gb_per_s: what an all-reduce gets of the GPUs' link, 10⁹ bytes per second and direction; None: as
            aiconfigurator assumes.
    """

    tp: int = 1
    attention_dp: int = 1
    expert_parallel: bool = False
    precision: str = "auto"
    kv_cache_dtype: str = "auto"
    block_size: int = 16
    link_gb_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("tp", "attention_dp", "block_size"):
            check_whole(name, getattr(self, name), 1, MAX_LIMIT)
        if self.link_gb_per_s is not None:
            check_number("GPU link", self.link_gb_per_s, 0.1, 1e5, "GB/s")
            if self.tp == 1:
                raise InputError(
                    "the link between GPUs counts where tensor parallelism adds activations up over it: give tp > 1 "
                    "(--tp), or leave the link out"
                )

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tp * self.attention_dp

    def cut(self, element_bytes: int) -> dict[str, Any]:
        """As aiconfigurator takes it."""
        experts = {"moe_tp_size": 1 if self.expert_parallel else self.gpus}
        experts["moe_ep_size"] = self.gpus if self.expert_parallel else 1
        named: dict[str, Any] = {"tp_size": self.tp, "attention_dp_size": self.attention_dp, **experts}
        if self.precision != "auto":
            named |= {"gemm_quant_mode": self.precision, "moe_quant_mode": self.precision}
        return named | {"kvcache_quant_mode": "fp8" if element_bytes == 1 else "bfloat16"}


def query_aiconfigurator(
    model: str,
    gpu: str,
    *,
    engine: str = "vllm",
    engine_version: str | None = None,
    spread: Spread | None = None,
    limits: ServerLimits | None = None,
    num_gpu_blocks: int | None = None,
) -> QueriedHardware:
    """A machine whose step times are a grid queried from aiconfigurator, with the KV blocks that its memory leaves.

    aiconfigurator adds up what GPUs do; steps with a prefill take `PREFILL_FACTOR` of the sum, and what the host does
    per request is assumed to be that of `estimate_step_time`.
    The blocks are the memory that it leaves to KV over the bytes of the model's `KvLaw`: by itself it takes 8-bit KV
    wherever the weights have 8 bits, which vLLM does not.

    Args:
        model: a model that aiconfigurator ships, in any usual spelling, or a folder with a `config.json`.
        gpu: the GPU, in any usual spelling.
        engine: `vllm`, `sglang` or `trtllm`.
        engine_version: one that aiconfigurator has measured; None: the newest.
        spread: how the model lies on its GPUs; None: on one.
        limits: how far the grid reaches.
        num_gpu_blocks: KV blocks as the server logs them, instead of computing them.

    Raises:
        InputError: aiconfigurator is not installed, does not know the model, the GPU or the engine, has not measured
            an operator, or leaves no room for KV.
    """
    limits, spread = limits or ServerLimits(), spread or Spread()
    _refuse_missing()
    _refuse_unknown_precision(spread.precision)
    known_model, (system, version) = _model(model), _system(gpu, engine, engine_version)
    label = f"{canonical_model_name(known_model)} on {f'{spread.gpus} × ' if spread.gpus > 1 else ''}"
    label += canonical_gpu_name(system)
    config = _config(known_model)
    dtype = _kv_dtype(config, known_model, spread)
    at, cut = (known_model, system, engine), spread.cut(dtype.element_bytes) | {"backend_version": version}
    with _refused_as(label):
        kv_bytes, token_bytes = _kv_memory(at, cut, limits)
        law = _law(config, spread, dtype) or _counted_law(spread, dtype, token_bytes)
        blocks = kv_bytes // law.bytes_per_block if num_gpu_blocks is None else _given(num_gpu_blocks, law, system)
        handle = _open(at, cut)
        tables = query_grid(handle, limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len)
        points, steps = draw_steps(handle, tables, blocks * law.block_size)
    served = replace(tables.with_prefill_factor(PREFILL_FACTOR), sequence_s=SEQUENCE_S)
    grid = _with_link(served, config, system, spread)
    step_time, report = fit_step_grid(grid, blocks * law.block_size)
    hardware = Hardware(
        name=f"{label} ({engine})",
        step_time=step_time,
        num_gpu_blocks=blocks,
        block_size=law.block_size,
        source=_source(at, cut, spread, num_gpu_blocks),
        relative_error=report.mean_error,
        grid=grid,
        kv_law=law,
        server=_server(config, system, limits),
    )
    return QueriedHardware(hardware, points, tables.tables_s(*steps))


def _given(num_gpu_blocks: int, law: KvLaw, system: str) -> int:
    """Blocks as the server logs them, if they fit its GPUs."""
    check_whole("num_gpu_blocks", num_gpu_blocks, 2, MAX_LIMIT)
    if canonical_gpu_name(system) in gpu_names():
        check_kv_fits(law, find_gpu(system), num_gpu_blocks)
    return num_gpu_blocks


def _source(at: tuple[str, str, str], cut: dict[str, Any], spread: Spread, num_gpu_blocks: int | None) -> str:
    """Where the numbers come from."""
    model, system, engine = at
    version = cut["backend_version"]
    parts = [f"{name} {size}" for name, size in cut.items() if name.endswith("_size")]
    parts += [f"{name} {cut[name]}" for name in ("gemm_quant_mode",) if name in cut]
    source = f"{LIBRARY} {_version()}: {model}, {system}, {engine} {version}, {', '.join(parts)}"
    if spread.attention_dp > 1:
        source += f"; one of {spread.attention_dp} data-parallel replicas, each with this KV cache"
    if num_gpu_blocks is not None:
        source += "; num_gpu_blocks as given"
    if spread.link_gb_per_s is not None:
        source += f"; links of {spread.link_gb_per_s:g} GB/s"
    return (
        f"{source}; the GPUs' time, steps with a prefill × {PREFILL_FACTOR:g}, and {SEQUENCE_S * 1e6:.0f} µs per "
        "scheduled request, assumed"
    )


def _server(config: JsonObject, system: str, limits: ServerLimits) -> ServerDefaults:
    """What vLLM sets on such a server by itself, as far as the grid reaches; None for a limit beyond it."""
    from aiconfigurator_core.sdk.perf_database import load_system_spec

    memory_gib = float(load_system_spec(system)["gpu"]["mem_capacity"]) / GIB
    own = server_defaults(canonical_gpu_name(system), memory_gib, model_length(text_config(config)))
    reached = {
        name: value if (value := getattr(own, name)) is not None and value <= getattr(limits, name) else None
        for name in ("max_num_seqs", "max_num_batched_tokens")
    }
    return replace(own, **reached)


def _config(model: str) -> JsonObject:
    """The model's config.json, in the folder that was named or as the library ships it."""
    return read_object(_config_file(model), "a model's config.json")


def _config_file(model: str) -> Path:
    folder = Path(model)
    return folder / "config.json" if folder.is_dir() else _shipped(model, "config")


def _shipped(model: str, what: str) -> Path:
    from importlib.resources import files

    name = f"{model.replace('/', '--')}_{what}.json"
    return Path(str(files("aiconfigurator_core").joinpath("model_configs", name)))


def _kv_dtype(config: JsonObject, model: str, spread: Spread) -> KvDtype:
    """The dtype of the KV cache: the one asked for, the checkpoint's, or the model's."""
    folder = Path(model)
    files = scheme_files(folder) if folder.is_dir() else [_shipped(model, "hf_quant_config")]
    return kv_dtype(spread.kv_cache_dtype, stated_dtype(text_config(config)), read_kv_scheme(config, *files))


def _law(config: JsonObject, spread: Spread, dtype: KvDtype) -> KvLaw | None:
    """The law of the model's KV cache on one GPU; None for a family that is not known."""
    try:
        layers = read_kv_layers(config)
    except InputError:
        return None
    return kv_law(layers, dtype=dtype, block_size=spread.block_size, tp=spread.tp)


def _counted_law(spread: Spread, dtype: KvDtype, token_bytes: int) -> KvLaw:
    """Where the family is not known: every token takes what aiconfigurator counts."""
    source = f"{dtype.source}; bytes a token as {LIBRARY} counts"
    return replace(
        KvLaw.full(spread.block_size),
        bytes_per_block=token_bytes * spread.block_size,
        dtype=replace(dtype, source=source),
    )


def _with_link(grid: StepGrid, config: JsonObject, system: str, spread: Spread) -> StepGrid:
    """With the time that activations take over a slower link than the library assumes, twice in a layer."""
    if spread.link_gb_per_s is None or spread.tp == 1:
        return grid
    from aiconfigurator_core.sdk.perf_database import load_system_spec

    text = text_config(config)
    assumed = float(load_system_spec(system)["node"]["intra_node_bw"])
    activations = 2 * text.integer("num_hidden_layers") * text.integer("hidden_size") * ACTIVATION_BYTES
    token_bytes = activations * 2 * (spread.tp - 1) / spread.tp
    token_s = token_bytes * (1.0 / (spread.link_gb_per_s * 1e9) - 1.0 / assumed)
    return grid.with_token_time(token_s)


def _refuse_missing() -> None:
    try:
        import aiconfigurator_core  # noqa: F401
    except ImportError:
        raise InputError(f"{LIBRARY} is not installed; install it: `pip install 'fluidgate[hardware]'`") from None


def _refuse_unknown_precision(precision: str) -> None:
    from aiconfigurator_core.sdk.common import GEMMQuantMode

    if precision != "auto" and precision not in GEMMQuantMode.__members__:
        raise InputError(f"precision = {precision!r} is not one of auto, {', '.join(GEMMQuantMode.__members__)}")


def _version() -> str:
    from importlib.metadata import version

    return version(LIBRARY)


def _model(name: str) -> str:
    """The model as aiconfigurator spells it; a folder as its path."""
    from aiconfigurator_core.sdk.common import get_default_models

    if Path(name, "config.json").is_file():
        config = read_object(Path(name, "config.json"), "a model's config.json")
        for size in filter(config.has, _SIZES):
            config.integer(size)
        if not config.has("architectures"):
            raise config.error("architectures", f"is missing; {LIBRARY} tells models by it")
        return str(Path(name).resolve())
    spellings: dict[str, str] = {canonical_model_name(model): model for model in sorted(get_default_models())}
    advice = "Or give a folder with the model's config.json."
    return spellings[resolve("model", name, canonical_model_name(name), spellings, advice)]


def _system(gpu: str, engine: str, engine_version: str | None) -> tuple[str, str]:
    """The GPU as aiconfigurator spells it, and the engine's version: the given one, or that it measured last."""
    from aiconfigurator_core.sdk.perf_database import get_supported_databases, resolve_query_version

    databases = get_supported_databases()
    spellings: dict[str, str] = {canonical_gpu_name(name): name for name in sorted(databases)}
    advice = f"These are the GPUs that {LIBRARY} has measured."
    system = spellings[resolve("GPU", gpu, canonical_gpu_name(gpu), spellings, advice)]
    engines = databases[system]
    if engine not in engines:
        raise InputError(f"{LIBRARY} has not measured '{engine}' on {system}; it has {', '.join(sorted(engines))}")
    if engine_version is not None and engine_version not in engines[engine]:
        known = ", ".join(engines[engine])
        raise InputError(f"{LIBRARY} has not measured {engine} {engine_version} on {system}; it has {known}")
    return system, engine_version or str(resolve_query_version(system, engine, "current"))


@contextmanager
def _refused_as(label: str) -> Iterator[None]:
    """Raise the library's many errors as one kind, and silence its log lines about tables this query may not use."""
    library = logging.getLogger("aiconfigurator_core")
    before = library.level
    library.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # asserts and errors of its own and of its compiled part
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "another --gpu, --engine, --tp, --expert-parallel, --precision or --gpu-memory-utilization may do"
        raise InputError(f"{LIBRARY} cannot tell the step times of {label}: {reason}; {advice}") from error
    finally:
        library.setLevel(before)


def _open(at: tuple[str, str, str], cut: dict[str, Any]) -> Any:
    from aiconfigurator_core.sdk import EngineHandle

    return EngineHandle.compile(*at, **cut)


def _kv_memory(at: tuple[str, str, str], cut: dict[str, Any], limits: ServerLimits) -> tuple[int, int]:
    """Bytes that are left for KV on one GPU, and those that a token takes as the library counts."""
    from aiconfigurator_core.sdk.memory import estimate_kv_cache

    left = estimate_kv_cache(
        *at,
        max_num_tokens=limits.max_num_batched_tokens,
        max_batch_size=limits.max_num_seqs,
        memory_fraction_kind=_MEMORY_KIND.get(at[2], "of_total"),
        memory_fraction_value=limits.gpu_memory_utilization,
        **cut,
    )
    return int(left["total_kv_size_bytes"]), int(left["kv_size_per_token_bytes"])
