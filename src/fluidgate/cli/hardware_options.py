"""`HardwareOptions`: the machine, by model and GPU, by a data sheet or by a hardware file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fluidgate.bounds import MAX_BLOCK_SIZE, MAX_GPUS
from fluidgate.cli import names
from fluidgate.cli.groups import changed, option
from fluidgate.errors import InputError
from fluidgate.words import listed

if TYPE_CHECKING:
    from fluidgate.hardware import Gpu, Hardware

_H = "Hardware"

DEFAULT_MODEL = "llama-2-7b"


@dataclass(frozen=True)
class HardwareOptions:
    """What the requests run on."""

    model: Annotated[
        str | None,
        option(
            _H,
            "--model",
            help=f"Model name, {DEFAULT_MODEL} if not given; with --model-config any, or its own.",
            autocompletion=names.completed(names.models),
        ),
    ] = None
    gpu: Annotated[
        str,
        option(
            _H,
            "--gpu",
            help="GPU name, or a JSON file with its data sheet.",
            autocompletion=names.completed(names.gpus),
        ),
    ] = "a100-80gb"
    gpu_memory_gib: Annotated[
        float | None, option(_H, "--gpu-memory-gib", help="GPU memory, for a GPU without a built-in data sheet.")
    ] = None
    gpu_bandwidth: Annotated[
        float | None, option(_H, "--gpu-bandwidth", help="Its memory bandwidth, GB/s (10⁹ bytes).")
    ] = None
    link_gbps: Annotated[
        float | None, option(_H, "--link-gbps", help="What an all-reduce gets of the GPUs' link, GB/s per direction.")
    ] = None
    gpu_tflops: Annotated[float | None, option(_H, "--gpu-tflops", help="Its dense bf16 throughput, TFLOP/s.")] = None
    gpu_fp8_tflops: Annotated[
        float | None, option(_H, "--gpu-fp8-tflops", help="Its dense FP8 throughput, TFLOP/s, if it has any.")
    ] = None
    tp: Annotated[int, option(_H, "--tp", help="Tensor-parallel GPUs.", min=1, max=MAX_GPUS)] = 1
    pp: Annotated[int, option(_H, "--pp", help="Stages of the pipeline.", min=1, max=MAX_GPUS)] = 1
    variant: Annotated[
        str | None,
        option(
            _H,
            "--variant",
            help="Profile variant, such as `paper`.",
            autocompletion=names.completed(names.variants),
        ),
    ] = None
    model_config: Annotated[
        Path | None, option(_H, "--model-config", help="Hugging Face config.json of the model.")
    ] = None
    hardware_file: Annotated[Path | None, option(_H, "--hardware", help="Hardware file, instead of model and GPU.")] = (
        None
    )
    gpu_memory_utilization: Annotated[
        float, option(_H, "--gpu-memory-utilization", help="Share of GPU memory to use; the default is vLLM's own.")
    ] = 0.92
    num_gpu_blocks: Annotated[int | None, option(_H, "--num-gpu-blocks", help="KV blocks, as vLLM counts them.")] = None
    kv_cache_tokens: Annotated[
        int | None, option(_H, "--kv-cache-tokens", help="KV cache in tokens, as vLLM logs its size.")
    ] = None
    block_size: Annotated[
        int | None, option(_H, "--block-size", help="Tokens per KV block.", min=1, max=MAX_BLOCK_SIZE)
    ] = None
    kv_cache_dtype: Annotated[
        str, option(_H, "--kv-cache-dtype", help="Dtype of the KV cache, as in vLLM: auto, bfloat16, fp8 …")
    ] = "auto"

    @property
    def named_model(self) -> str | None:
        """The model that is asked for; None: that of its config."""
        return self.model or (None if self.model_config else DEFAULT_MODEL)

    def load(self) -> Hardware:
        """The hardware file, or the profile or estimate of the model on the GPU."""
        from fluidgate.hardware import get_hardware

        if self.hardware_file is None:
            self._refuse_given_twice()
            return get_hardware(self.named_model, self.data_sheet() or self.gpu, **self.serving())
        return self._read(self.hardware_file)

    def serving(self) -> dict[str, Any]:
        """How the model is served on the GPU: the further arguments of `get_hardware`."""
        return {
            "tp": self.tp,
            "pp": self.pp,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "num_gpu_blocks": self.num_gpu_blocks,
            "kv_cache_tokens": self.kv_cache_tokens,
            "block_size": self.block_size or 16,
            "kv_cache_dtype": self.kv_cache_dtype,
            "variant": self.variant,
            "config": self.model_config,
        }

    def _refuse_given_twice(self) -> None:
        """Refuse a share of the memory beside the blocks that it would be turned into, and two data sheets."""
        given = changed(self)
        stated = [given[name] for name in ("num_gpu_blocks", "kv_cache_tokens") if name in given]
        if len(stated) == 1 and "gpu_memory_utilization" in given:
            raise InputError(f"{stated[0]} states the KV cache: leave --gpu-memory-utilization out")
        sheet = [given[name] for name in ("gpu_memory_gib", "gpu_bandwidth", "gpu_tflops") if name in given]
        if sheet and Path(self.gpu).suffix == ".json":
            raise InputError(f"--gpu {self.gpu} is a data sheet: leave {listed(sheet)} out")

    def _read(self, path: Path) -> Hardware:
        """The machine in a hardware file, with the KV cache that the options state.

        Raises:
            InputError: options that describe the model or the GPU, or blocks of another size without their number.
        """
        from fluidgate.hardware import read_hardware, stated_blocks

        kept = ("hardware_file", "num_gpu_blocks", "kv_cache_tokens", "block_size")
        others = [flag for name, flag in changed(self).items() if name not in kept]
        if others:
            raise InputError(f"--hardware states the machine: leave {listed(others)} out")
        machine = read_hardware(path)
        if self.block_size not in (None, machine.block_size) and self.num_gpu_blocks is self.kv_cache_tokens is None:
            raise InputError(
                f"{path}: has blocks of {machine.block_size} tokens; with --block-size {self.block_size} say how large "
                "the KV cache is: add --num-gpu-blocks or --kv-cache-tokens"
            )
        machine = machine.with_cache(machine.num_gpu_blocks, self.block_size)
        blocks = stated_blocks(self.num_gpu_blocks, self.kv_cache_tokens, machine.law, machine.server)
        return machine if blocks is None else machine.with_cache(blocks)

    def data_sheet(self) -> Gpu | None:
        """The GPU that the options describe; None where they only name one."""
        from fluidgate.hardware import Gpu, find_gpu

        sheet = {
            "--gpu-memory-gib": self.gpu_memory_gib,
            "--gpu-bandwidth": self.gpu_bandwidth,
            "--gpu-tflops": self.gpu_tflops,
        }
        missing = [name for name, value in sheet.items() if value is None]
        given = (("link_gb_per_s", self.link_gbps), ("fp8_tflops", self.gpu_fp8_tflops))
        more: dict[str, Any] = {name: value for name, value in given if value is not None}
        if len(missing) == len(sheet):
            return replace(find_gpu(self.gpu), **more) if more else None
        if missing:
            raise InputError(f"a GPU's data sheet needs {', '.join(sheet)}: add {' and '.join(missing)}")
        memory_gib, bandwidth, tflops = (float(value) for value in sheet.values() if value is not None)
        return Gpu(self.gpu, memory_gib, bandwidth, tflops, "given on the command line", **more)
