"""Programs beside the package import names that it has; most of them are too long to run here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path for folder in ("benchmarks", "tools", "examples", "docs/figures") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_imports_what_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "fluidgate":
            try:
                module = importlib.import_module(str(node.module))
            except ModuleNotFoundError as missing:
                if str(missing.name).startswith("fluidgate"):
                    raise
                continue  # something that is not installed here
            for alias in node.names:
                there = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert there, f"line {node.lineno}: {node.module} has no {alias.name}"
