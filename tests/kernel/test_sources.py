"""What the compiled-code cache is keyed by: every file that machine code depends on."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fluidgate
from fluidgate.code_cache import kernel_sources
from fluidgate.kernel import Kernel, interpreted, kernel

NUMBERS = (bool, int, float, tuple)


def modules() -> Iterator[Any]:
    """Every module of the package that can be imported here."""
    for found in pkgutil.walk_packages(fluidgate.__path__, "fluidgate."):
        if found.name == "fluidgate.__main__":
            continue
        try:
            yield importlib.import_module(found.name)
        except ModuleNotFoundError as missing:
            if str(missing.name).startswith("fluidgate"):
                raise


def kernels() -> dict[str, Any]:
    return {
        f"{thing.py_func.__module__}.{name}": thing
        for module in modules()
        for name, thing in vars(module).items()
        if isinstance(thing, Kernel)
    }


def home_of(path: Path, name: str) -> Path:
    """The file that gives a global name its value."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fluidgate"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    module = importlib.import_module(str(node.module))
                    return home_of(Path(str(module.__file__)), alias.name)
    return path


def test_every_kernel_and_every_number_in_it_is_in_the_key() -> None:
    sources, all_kernels = set(kernel_sources()), kernels()
    assert len(all_kernels) > 100
    for title, compiled in all_kernels.items():
        function = compiled.py_func
        path = Path(function.__code__.co_filename)
        assert path in sources, title
        for name in function.__code__.co_names:
            if isinstance(function.__globals__.get(name), NUMBERS):
                assert home_of(path, name) in sources, f"{title} takes {name} from {home_of(path, name)}"


def scale(x):
    return 2.0 * x


first = kernel(scale)


def other() -> Any:
    def scale(x):
        return 10.0 * x

    return kernel(scale)


second = other()


@kernel
def both(x):
    return first(x) + second(x)


def test_kernels_of_one_name_stay_apart() -> None:
    assert interpreted(both)(1.0) == 12.0


def test_a_replacement_takes_the_place_of_one_kernel_alone() -> None:
    assert interpreted(both, {first: lambda x: 100.0})(1.0) == 110.0


def test_a_replacement_that_nothing_calls_is_refused() -> None:
    @kernel
    def uncalled(x):
        return x

    with pytest.raises(ValueError, match="both never calls uncalled"):
        interpreted(both, {uncalled: scale})
