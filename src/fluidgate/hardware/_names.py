"""Finding a model or GPU by name: forgiving about spelling, never guessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from fluidgate.errors import unknown
from fluidgate.words import nearest

_NOT_THE_NAME = frozenset(["nvidia", "amd", "intel", "google", "tesla", "geforce", "instinct", "generation"])
_MODEL_ENDINGS = ("-hf", "-chat", "-instruct", "-base")


def simple_gpu_name(name: str) -> str:
    """Lower case, hyphens, without maker and line: `NVIDIA A100_SXM` → `a100-sxm`, `Tesla T4` → `t4`."""
    words = re.split(r"[\s_-]+", name.strip().lower())
    return "-".join(word for word in words if word not in _NOT_THE_NAME)


def simple_model_name(name: str) -> str:
    """Lower case, without organisation or tuning: `meta-llama/Llama-2-7b-chat-hf` → `llama-2-7b`."""
    simple = name.strip().rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-").removeprefix("meta-")
    ending = next((e for e in _MODEL_ENDINGS if simple.endswith(e)), None)
    return simple_model_name(simple.removesuffix(ending)) if ending else simple


def resolve(
    what: str,
    spelling: str,
    canonical: str,
    choices: Iterable[str],
    advice: str,
    may_hint: Callable[[str, str], bool] = lambda name, other: True,
    likeness: float = 0.5,
) -> str:
    """`canonical` if it is known; else an `InputError` with the nearest known name, if it may be meant, and all."""
    names = list(choices)
    if canonical in names:
        return canonical
    likely = [name for name in names if may_hint(canonical, name)]
    raise unknown(what, spelling, names, advice, near=nearest(canonical, likely, likeness) or "")
