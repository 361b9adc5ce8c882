"""`Settings`: where the sliders of the page stand, and how they are read from what a browser sends."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fluidgate.bounds import MAX_COUNT, MAX_GPUS
from fluidgate.errors import InputError, unknown
from fluidgate.hardware import find_gpu, find_model, gpu_names, model_names
from fluidgate.jsonfile import JsonObject
from fluidgate.policies import policy_class
from fluidgate.runs import DEFAULT_POLICIES
from fluidgate.workload import PRESETS

LEAST_RATE, MOST_RATE = 0.01, 1000.0
LEAST_FACTOR, MOST_FACTOR = 0.1, 10.0
MOST_PRICE = 1e6

POLICIES = DEFAULT_POLICIES
"""Those that the page offers."""
TPS = (1, 2, 4, 8)
SEATS = (16, 32, 64, 128, 256, 512, 1024)
BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)


def models() -> list[str]:
    """The models whose step time is known or can be estimated: not mixtures of experts."""
    return [name for name in model_names() if not find_model(name).is_moe]


def gpus() -> list[str]:
    """The GPUs with a built-in data sheet."""
    return list(gpu_names())


@dataclass(frozen=True)
class Settings:
    """Where everything stands.

    Attributes:
        preset: name of a workload.
        rate: requests per second.
        prompt_factor, output_factor: on its lengths.
        model, gpu: names.
        tp: tensor-parallel GPUs.
        seats, budget: `max_num_seqs` and `max_num_batched_tokens`; 0: what vLLM sets by itself.
        policy: a spec as `make_policy` takes it.
        price: of a GPU and hour; 0: not given.
    """

    preset: str = "azure-conv-2023"
    rate: float = 20.0
    prompt_factor: float = 1.0
    output_factor: float = 1.0
    model: str = "llama-3.1-8b"
    gpu: str = "h100-80gb"
    tp: int = 1
    seats: int = 0
    budget: int = 0
    policy: str = "fluid"
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        find_model(self.model)
        object.__setattr__(self, "gpu", _gpu(self.gpu))
        policy_class(self.policy.partition(":")[0])
        for name, least, most in (
            ("rate", LEAST_RATE, MOST_RATE),
            ("prompt_factor", LEAST_FACTOR, MOST_FACTOR),
            ("output_factor", LEAST_FACTOR, MOST_FACTOR),
            ("price", 0.0, MOST_PRICE),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"settings: '{name}' = {value:g} must be between {least:g} and {most:g}")


def _gpu(name: str) -> str:
    """A built-in GPU's name; a page must not make the server read a file."""
    if name.endswith(".json"):
        raise InputError(f"GPU {name!r}: choose one of those that are built in: {', '.join(gpu_names())}")
    return find_gpu(name).name


def read_settings(values: Any) -> Settings:
    """Settings from a decoded JSON object; what it leaves out is as in `Settings`.

    Raises:
        InputError: it is no object, or a key is unknown, malformed or out of range.
    """
    if not isinstance(values, dict):
        raise InputError(f"settings: are a JSON {type(values).__name__}, not an object")
    read, default = JsonObject(values, "settings"), Settings()
    read.refuse_others(field.name for field in fields(Settings))

    def text(name: str) -> str:
        return read.text(name, default=getattr(default, name))

    def number(name: str) -> float:
        return read.number(name, default=getattr(default, name))

    def whole(name: str, least: int, most: int) -> int:
        return read.integer(name, at_least=least, at_most=most, default=getattr(default, name))

    return Settings(
        preset=text("preset"),
        rate=number("rate"),
        prompt_factor=number("prompt_factor"),
        output_factor=number("output_factor"),
        model=text("model"),
        gpu=text("gpu"),
        tp=whole("tp", 1, MAX_GPUS),
        seats=whole("seats", 0, MAX_COUNT),
        budget=whole("budget", 0, MAX_COUNT),
        policy=text("policy"),
        price=number("price"),
    )
