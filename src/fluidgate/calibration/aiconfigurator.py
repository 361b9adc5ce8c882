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
from fluidgate.calibration.aiconfigurator_grid import draw_steps, query_grid
from fluidgate.calibration.points import StepPoints
from fluidgate.errors import InputError
from fluidgate.hardware._names import resolve
from fluidgate.hardware.core import Hardware
from fluidgate.hardware.estimate import SEQUENCE_S
from fluidgate.hardware.fit import fit_step_grid
from fluidgate.hardware.gpus import canonical_gpu_name, check_memory_utilization
from fluidgate.hardware.model_config import canonical_model_name
from fluidgate.jsonfile import read_object

LIBRARY = "aiconfigurator-core"
MAX_LIMIT = 2**24
"""The largest value of any limit."""
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
    gpu_memory_utilization: float = 0.9

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
        points: steps drawn between the knots of the grid, as aiconfigurator gives them: the GPUs' time alone.
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


def query_aiconfigurator(
    model: str,
    gpu: str,
    *,
    engine: str = "vllm",
    tp: int = 1,
    expert_parallel: bool = False,
    limits: ServerLimits | None = None,
    num_gpu_blocks: int | None = None,
    block_size: int = 16,
) -> QueriedHardware:
    """A machine whose step times are a grid queried from aiconfigurator, with the KV blocks that it computes.

    aiconfigurator adds up what GPUs do; what the host does per request is assumed to be that of `estimate_step_time`.

    Args:
        model: a model that aiconfigurator ships, in any usual spelling, or a folder with a `config.json`.
        gpu: the GPU, in any usual spelling.
        engine: `vllm`, `sglang` or `trtllm`.
        tp: tensor-parallel GPUs; a mixture of experts is split the same way.
        expert_parallel: give each GPU whole experts instead of slices of all of them.
        limits: how far the grid reaches.
        num_gpu_blocks: KV blocks as the server logs them, instead of computing them.
        block_size: tokens per KV block.

    Raises:
        InputError: aiconfigurator is not installed, does not know the model, the GPU or the engine, has not measured
            an operator, or leaves no room for KV.
    """
    limits = limits or ServerLimits()
    for what, value, least in (("num_gpu_blocks", num_gpu_blocks, 2), ("block_size", block_size, 1), ("tp", tp, 1)):
        if value is not None and not least <= value <= MAX_LIMIT:
            raise InputError(f"{what} = {value} must be at least {least} and at most {MAX_LIMIT:,}")
    _refuse_missing()
    known_model, (system, version) = _model(model), _system(gpu, engine)
    label = f"{canonical_model_name(known_model)} on {f'{tp} × ' if tp > 1 else ''}{canonical_gpu_name(system)}"
    cut = {"tp_size": tp, "moe_tp_size": 1 if expert_parallel else tp, "moe_ep_size": tp if expert_parallel else 1}
    with _refused_as(label):
        blocks = num_gpu_blocks
        if blocks is None:
            blocks = _kv_blocks(known_model, system, engine, version, cut, limits, block_size)
        handle = _open(known_model, system, engine, version, cut)
        tables = query_grid(handle, limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len)
        points, steps = draw_steps(handle, tables, blocks * block_size)
    grid = replace(tables, sequence_s=SEQUENCE_S)
    step_time, report = fit_step_grid(grid, blocks * block_size)
    parallel = ", ".join(f"{name} {size}" for name, size in cut.items())
    note = "; num_gpu_blocks as given" if num_gpu_blocks else ""
    hardware = Hardware(
        name=f"{label} ({engine})",
        step_time=step_time,
        num_gpu_blocks=blocks,
        block_size=block_size,
        source=f"{LIBRARY} {_version()}: {known_model}, {system}, {engine} {version}, {parallel}{note}; "
        f"the GPUs' time, and {SEQUENCE_S * 1e6:.0f} µs per scheduled request, assumed",
        relative_error=report.mean_error,
        grid=grid,
    )
    return QueriedHardware(hardware, points, tables.tables_s(*steps))


def _refuse_missing() -> None:
    try:
        import aiconfigurator_core  # noqa: F401
    except ImportError:
        raise InputError(f"{LIBRARY} is not installed; install it: `pip install 'fluidgate[hardware]'`") from None


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
        return str(Path(name).resolve())
    spellings: dict[str, str] = {canonical_model_name(model): model for model in sorted(get_default_models())}
    advice = "Or give a folder with the model's config.json."
    return spellings[resolve("model", name, canonical_model_name(name), spellings, advice)]


def _system(gpu: str, engine: str) -> tuple[str, str]:
    """The GPU as aiconfigurator spells it, and the engine's version that it measured last."""
    from aiconfigurator_core.sdk.perf_database import get_supported_databases, resolve_query_version

    databases = get_supported_databases()
    spellings: dict[str, str] = {canonical_gpu_name(name): name for name in sorted(databases)}
    advice = f"These are the GPUs that {LIBRARY} has measured."
    system = spellings[resolve("GPU", gpu, canonical_gpu_name(gpu), spellings, advice)]
    engines = databases[system]
    if engine not in engines:
        raise InputError(f"{LIBRARY} has not measured '{engine}' on {system}; it has {', '.join(sorted(engines))}")
    return system, str(resolve_query_version(system, engine, "current"))


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
        advice = "another --gpu, --engine, --tp, --expert-parallel or --gpu-memory-utilization may do"
        raise InputError(f"{LIBRARY} cannot tell the step times of {label}: {reason}; {advice}") from error
    finally:
        library.setLevel(before)


def _open(model: str, system: str, engine: str, version: str, cut: dict[str, int]) -> Any:
    from aiconfigurator_core.sdk import EngineHandle

    return EngineHandle.compile(model, system, engine, backend_version=version, **cut)


def _kv_blocks(
    model: str, system: str, engine: str, version: str, cut: dict[str, int], limits: ServerLimits, block_size: int
) -> int:
    from aiconfigurator_core.sdk.memory import estimate_num_gpu_blocks

    return int(
        estimate_num_gpu_blocks(
            model,
            system,
            engine,
            version,
            scheduler_block_size=block_size,
            max_num_tokens=limits.max_num_batched_tokens,
            max_batch_size=limits.max_num_seqs,
            memory_fraction_kind=_MEMORY_KIND.get(engine, "of_total"),
            memory_fraction_value=limits.gpu_memory_utilization,
            **cut,
        )
    )
