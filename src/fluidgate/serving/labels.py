"""What a request announces: its class and its output length, read so that no value can do harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fluidgate.bounds import MAX_SECONDS

OUTPUT_TOKENS_KEY = "output_tokens"
CLASS_KEY = "fluidgate_class"
TIMEOUT_KEY, TTFT_TIMEOUT_KEY = "fluidgate_timeout", "fluidgate_ttft_timeout"
"""Keys of `SamplingParams.extra_args`, over HTTP `vllm_xargs`: the output length, the name of the class, and how long
the client waits for the last and the first token, seconds."""


@dataclass(frozen=True)
class Classes:
    """The classes that a plan distinguishes, and how requests that do not name theirs are classified.

    Attributes:
        names: in the plan's order; empty where the plan knows one class only.
        by_adapter: class by the name of the LoRA adapter.
        by_priority: class by the request's priority.
    """

    names: tuple[str, ...] = ()
    by_adapter: Mapping[str, str] = field(default_factory=dict)
    by_priority: Mapping[int, str] = field(default_factory=dict)

    def of(self, request: Any) -> tuple[int, bool]:
        """The number of a request's class, and whether the plan knows it; unknown ones count as the last class."""
        if not self.names:
            return 0, True
        name = _extra(request).get(CLASS_KEY)
        adapter = request.lora_request
        if name is None and adapter is not None:
            name = self.by_adapter.get(adapter.lora_name)
        if name is None:
            name = self.by_priority.get(request.priority)
        recognised = isinstance(name, str) and name in self.names
        return (self.names.index(name) if recognised else len(self.names) - 1), recognised


def output_tokens(request: Any, longest: int) -> tuple[int, bool]:
    """The output length that a request announces, and whether its hint was sound.

    Without a sound hint it is `max_tokens`, which no hint exceeds either; `longest` bounds both.
    """
    most = min(int(request.max_tokens), longest)
    hint = _extra(request).get(OUTPUT_TOKENS_KEY)
    if hint is None:
        return most, True
    sound = isinstance(hint, int | float) and not isinstance(hint, bool) and 1 <= hint <= most
    return (int(hint) if sound else most), sound


def timeouts_s(request: Any) -> tuple[float, float, bool]:
    """How long a client says that it waits for the last and the first token, and whether that was sound.

    Infinity: for ever, as without a sound value.
    """
    said = [_extra(request).get(key) for key in (TIMEOUT_KEY, TTFT_TIMEOUT_KEY)]
    sound = [
        value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS)
        for value in said
    ]
    last_s, first_s = (
        float(value) if value is not None and good else inf for value, good in zip(said, sound, strict=True)
    )
    return last_s, first_s, all(sound)


def _extra(request: Any) -> Mapping[str, Any]:
    parameters = request.sampling_params
    return (parameters.extra_args if parameters is not None else None) or {}
