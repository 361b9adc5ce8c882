"""A few kernels that compile quickly, and a start of the process that has them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fluidgate import code_cache
from fluidgate.code_cache import cache_folder

KERNELS = """
import sys

from fluidgate.kernel import entry_kernel, inlined_kernel, kernel

__name__ = "fluidgate.small_kernels"  # code is kept of the package's own kernels alone
sys.modules[__name__] = sys.modules["small_kernels"]

@inlined_kernel
def doubled(x):
    return 2 * x

@kernel
def squared(x):
    return x * x

@entry_kernel
def together(x):
    return squared(doubled(x)) + 1

@entry_kernel
def around(x):
    return together(x) + together(x + 1)
"""
FILES = ("together",)
"""Those whose code is kept; that of the others is part of theirs."""
STRANGER = 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def start_anew() -> None:
    """As a new process knows nothing of what an earlier one found and said."""
    cache_folder.cache_clear()
    code_cache._SAID.clear()


def started(root: Path) -> ModuleType:
    """The kernels as a new process has them: nothing is compiled or loaded yet."""
    start_anew()
    spec = importlib.util.spec_from_file_location("small_kernels", root.parent / "small_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["small_kernels"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(root: Path) -> int:
    """How many of the kernels that ran were loaded; their result is right, however they came."""
    module = started(root)
    assert module.together(3) == 37
    return sum(sum(getattr(module, name).dispatcher.stats.cache_hits.values()) for name in FILES)


def file_of(name: str) -> Path:
    folder = cache_folder()
    assert folder is not None
    (path,) = folder.glob(f"fluidgate.small_kernels.{name}-*.nbc")
    return path
