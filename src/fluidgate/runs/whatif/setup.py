"""`Setup`: everything that a run depends on but its requests, so that one part of it can be changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig, Fleet
from fluidgate.errors import InputError
from fluidgate.hardware import Gpu, Hardware, find_gpu, get_hardware
from fluidgate.runs.factors import with_lengths
from fluidgate.runs.prices import Prices
from fluidgate.workload import Workload

STATED_CACHE = ("num_gpu_blocks", "kv_cache_tokens")
"""Arguments of `get_hardware` that hold for one machine alone."""


@dataclass(frozen=True)
class MachineSpec:
    """A machine as it is asked for.

    Attributes:
        model: its name; None: that of `serving["config"]`.
        gpu: a name or a data sheet.
        serving: further arguments of `get_hardware`.
    """

    model: str | None
    gpu: str | Gpu
    serving: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gpu_name(self) -> str:
        """As it was given."""
        return self.gpu if isinstance(self.gpu, str) else self.gpu.name

    @property
    def listed_gpu(self) -> str:
        """Its name in lists, however it was spelled."""
        return find_gpu(self.gpu).name if isinstance(self.gpu, str) else self.gpu.name

    @property
    def gpus(self) -> int:
        """How many GPUs serve one replica."""
        return int(self.serving.get("tp", 1)) * int(self.serving.get("pp", 1))

    def load(self) -> Hardware:
        """Step time and KV cache.

        Raises:
            InputError: an unknown name, or a model that does not go on the GPU.
        """
        return get_hardware(self.model, self.gpu, **self.serving)

    def refuse_stated_cache(self, what: str) -> None:
        """Refuse to change what sizes the KV cache where its size is stated; `what` names the change."""
        stated = [f"--{name.replace('_', '-')}" for name in STATED_CACHE if self.serving.get(name) is not None]
        if stated:
            raise InputError(
                f"{what} changes the size of the KV cache, which {stated[0]} states; leave {stated[0]} out"
            )

    def served(self, **changes: Any) -> MachineSpec:
        """The same with other arguments of `get_hardware`."""
        return replace(self, serving={**self.serving, **changes})


@dataclass(frozen=True)
class Setup:
    """One way to serve, and what is changed of the requests.

    Attributes:
        hardware: of a replica.
        config: of its engine.
        policy: a spec as `make_policy` takes it; what it leaves out comes from the plan.
        fleet: how many replicas, and the router in front of them.
        rate: requests per second of all of them; None: as they arrive.
        growth: factor on the rate.
        prompt_factor, output_factor: on the lengths.
        spec: how the hardware was asked for; None: it was given as it is.
    """

    hardware: Hardware
    config: EngineConfig = field(default_factory=EngineConfig)
    policy: str = "fluid"
    fleet: Fleet = field(default_factory=Fleet)
    rate: float | None = None
    growth: float = 1.0
    prompt_factor: float = 1.0
    output_factor: float = 1.0
    spec: MachineSpec | None = None

    @property
    def gpus(self) -> int:
        """Of all replicas; a machine that was given as it is counts as one."""
        return self.fleet.replicas * (1 if self.spec is None else self.spec.gpus)

    def million_tokens_cost(self, prices: Prices, output_tokens_per_s: float) -> float:
        """What a million output tokens cost at this rate of writing them; NaN where that has no price."""
        gpu = None if self.spec is None else self.spec.listed_gpu
        return prices.per_million_tokens(gpu, self.gpus, output_tokens_per_s)

    def on(self, spec: MachineSpec) -> Setup:
        """The same on another machine."""
        return replace(self, hardware=spec.load(), spec=spec)

    def requests(self, draw: Workload) -> Workload:
        """What arrives in this setup where `draw` is what was drawn.

        Raises:
            InputError: a rate for requests that all arrive at once, or prompts that cannot change.
        """
        lengths = with_lengths(draw, prompt=self.prompt_factor, output=self.output_factor)
        if self.rate is None and self.growth == 1.0:
            return lengths
        own = draw.rate
        if not np.isfinite(own):
            raise InputError(f"{draw.name}: all requests arrive at once, so no rate can be set; give arrivals")
        factor = self.growth * (1.0 if self.rate is None else self.rate / own)
        return lengths if factor == 1.0 else lengths.scaled(factor)
