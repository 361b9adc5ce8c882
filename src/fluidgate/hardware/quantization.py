"""What a checkpoint says of its quantisation: bits per weight of its layers, and bytes per KV element.

Read where vLLM 0.32 reads it: `quantization_config` or `compression_config` in config.json, or a file beside it that
older tools wrote. An FP8 checkpoint does not imply FP8 KV: only a scheme for the KV cache does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.hardware.kv_law import ASKED, KvDtype
from fluidgate.jsonfile import JsonObject, read_object

SECTIONS = ("quantization_config", "compression_config")
FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
SCALE_BITS = 16
"""Of a group's scale in AWQ, GPTQ and compressed-tensors; NVFP4 and MXFP4 have 8."""
_ELSEWHERE = "use `fluidgate calibrate aiconfigurator` or `calibrate server`"


@dataclass(frozen=True)
class Scheme:
    """How the layers' matrices are stored; embeddings and the output head keep 16 bits.

    Attributes:
        title: the method, for people.
        weight_bits: per weight, scales and zero points included.
        kv_element_bytes: of the KV cache, where the checkpoint brings its scales; else 2.
        computes_in_8_bits: whether activations are quantised as well, so that matrices multiply in 8 bits (or 4, which
            is not counted apart).
    """

    title: str = "16-bit"
    weight_bits: float = 16.0
    kv_element_bytes: int = 2
    computes_in_8_bits: bool = False


SIXTEEN_BIT = Scheme()

KV_DTYPES = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "int8": 1}
"""Bytes per element of what `--kv-cache-dtype` takes besides `auto`."""


def kv_dtype(asked: str, model_dtype: str, scheme: Scheme) -> KvDtype:
    """The dtype of the KV cache for what `--kv-cache-dtype` says.

    `auto` is what the checkpoint's scheme says of the KV cache, or else the model's dtype: 8-bit weights alone do not
    make 8-bit KV.

    Raises:
        InputError: a dtype that is not known here.
    """
    if asked != "auto":
        if asked not in KV_DTYPES:
            raise InputError(f"kv_cache_dtype = {asked!r} is not one of auto, {', '.join(KV_DTYPES)}")
        return KvDtype(asked, KV_DTYPES[asked], ASKED)
    if scheme.kv_element_bytes == 1:
        return KvDtype("fp8", 1, f"by the checkpoint's KV scheme ({scheme.title})")
    return KvDtype(model_dtype, 2, "the model's dtype")


def read_scheme(config: JsonObject, *files: Path) -> Scheme:
    """The scheme of a checkpoint; `SIXTEEN_BIT` where nothing says that it is quantised.

    Args:
        config: its config.json.
        files: where older tools may have left a description of their own.

    Raises:
        InputError: a method that is not known here, or a key that is missing or malformed.
    """
    section = _section(config, files)
    return SIXTEEN_BIT if section is None else _scheme(section)


def read_kv_scheme(config: JsonObject, *files: Path) -> Scheme:
    """What a checkpoint says of its KV cache alone; its weights may be stored in any way.

    Raises:
        InputError: a cache of other than 8 or 16 bits, or a key that is malformed.
    """
    section = _section(config, files)
    if section is None:
        return SIXTEEN_BIT
    return Scheme(_method(section), kv_element_bytes=_kv_element_bytes(section))


def scheme_files(folder: Path) -> list[Path]:
    """Where older tools leave a description in a checkpoint's folder."""
    return [folder / name for name in FILES]


def _section(config: JsonObject, files: tuple[Path, ...]) -> JsonObject | None:
    for section in SECTIONS:
        if config.has(section):
            return config.object(section)
    for path in files:
        if path.is_file():
            file = read_object(path, "a description of the quantisation")
            return file.object("quantization") if file.has("quantization") else file
    return None


def _method(section: JsonObject) -> str:
    method = section.text("quant_method", default="")
    if not method:  # older files have no name for it, but keys of their own
        method = "modelopt" if section.has("quant_algo") else "awq" if section.has("w_bit") else "gptq"
    return method


def _scheme(section: JsonObject) -> Scheme:
    method = _method(section)
    if method not in _METHODS:
        methods = ", ".join(sorted(_METHODS))
        raise section.error("quant_method", f"= {method!r} is not counted here ({methods} are); {_ELSEWHERE}")
    return Scheme(method, _METHODS[method](section), _kv_element_bytes(section), _computes_in_8_bits(method, section))


def _computes_in_8_bits(method: str, section: JsonObject) -> bool:
    if method == "compressed-tensors":
        return any(group.has("input_activations") for group in _config_groups(section))
    if method == "modelopt":
        return section.text("quant_algo").upper().startswith(("FP8", "NVFP4", "INT8"))
    return method == "fp8"


def _grouped(section: JsonObject) -> float:
    """AWQ and GPTQ: integers in groups, each with a scale and a zero point."""
    bits = section.integer("w_bit" if section.has("w_bit") else "bits", at_most=16)
    group = section.values.get("q_group_size", section.values.get("group_size", 128))
    if type(group) is not int or group == 0 or group < -1:
        raise section.error("group_size", f"= {group!r} must be a number of weights, or -1 for whole columns")
    return bits if group == -1 else bits + (SCALE_BITS + bits) / group


def _compressed_tensors(section: JsonObject) -> float:
    bits = {_group_bits(group.object("weights")) for group in _config_groups(section)}
    if len(bits) != 1:
        raise section.error("config_groups", f"has weights of several widths, or none; {_ELSEWHERE}")
    return bits.pop()


def _config_groups(section: JsonObject) -> Iterator[JsonObject]:
    groups = section.object("config_groups")
    return (groups.object(name) for name in groups.values)


def _group_bits(weights: JsonObject) -> float:
    bits = weights.integer("num_bits", at_most=16)
    if not weights.has("group_size"):
        return bits
    scale_bits = 8 if weights.text("type", default="int") == "float" and bits == 4 else SCALE_BITS  # NVFP4
    return bits + scale_bits / weights.integer("group_size")


def _modelopt(section: JsonObject) -> float:
    algorithm = section.text("quant_algo")
    for name, bits in (("NVFP4", 4 + 8 / 16), ("FP8", 8.0), ("W4A16", 4 + SCALE_BITS / 128), ("INT8", 8.0)):
        if algorithm.upper().startswith(name):
            return bits
    raise section.error("quant_algo", f"= {algorithm!r} is not counted here; {_ELSEWHERE}")


def _bitsandbytes(section: JsonObject) -> float:
    if section.flag("load_in_4bit", default=False):
        return 4.127 if section.flag("bnb_4bit_use_double_quant", default=False) else 4.5  # blocks of 64 weights
    return 8.0


_METHODS: dict[str, Callable[[JsonObject], float]] = {
    "auto-round": _grouped,
    "awq": _grouped,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "fp8": lambda section: 8.0,
    "gptq": _grouped,
    "modelopt": _modelopt,
    "mxfp4": lambda section: 4 + 8 / 32,
}


def _kv_element_bytes(section: JsonObject) -> int:
    if section.has("kv_cache_scheme"):
        bits = section.object("kv_cache_scheme").integer("num_bits", default=8)
    elif section.has("kv_cache_quant_algo"):
        algorithm = section.text("kv_cache_quant_algo")
        bits = {"FP8": 8, "NONE": 16}.get(algorithm.upper(), 0)
    else:
        return 2
    if bits not in (8, 16):
        raise InputError(f"{section.where}: its KV cache is not of 8 or 16 bits; {_ELSEWHERE}")
    return bits // 8


def checkpoint_bytes(folder: Path) -> int | None:
    """Bytes of all tensors, from a folder's safetensors index; None where there is none.

    Raises:
        InputError: an index that cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return None
    metadata = read_object(index, "a safetensors index").object("metadata")
    return metadata.integer("total_size", at_most=2**50)
