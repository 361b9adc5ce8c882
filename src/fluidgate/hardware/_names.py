"""Finding a model or GPU by name: forgiving about spelling, never guessing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fluidgate.errors import InputError

_MODEL_ENDINGS = ("-hf", "-chat", "-instruct", "-base")


def simple_gpu_name(name: str) -> str:
    """Lower case, hyphens, without the maker: `NVIDIA A100_SXM` → `a100-sxm`."""
    return name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")


def simple_model_name(name: str) -> str:
    """Lower case, without organisation or tuning: `meta-llama/Llama-2-7b-chat-hf` → `llama-2-7b`."""
    simple = name.strip().rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-").removeprefix("meta-")
    ending = next((e for e in _MODEL_ENDINGS if simple.endswith(e)), None)
    return simple_model_name(simple.removesuffix(ending)) if ending else simple


def resolve(what: str, spelling: str, canonical: str, choices: Iterable[str], advice: str) -> str:
    """`canonical` if it is known; else an `InputError` with the nearest known name and all of them."""
    names = list(choices)
    if canonical in names:
        return canonical
    near = difflib.get_close_matches(canonical, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise InputError(f"unknown {what} '{spelling}'{hint} Known: {', '.join(names)}. {advice}")
