"""The site shows the whole package, and its figures are what the page says they are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import fluidgate
from fluidgate.policies import View

DOCS = Path(__file__).parents[2] / "docs"

WITHOUT_A_PAGE = {
    "__main__",
    "arrays",
    "bounds",
    "cli",
    "code_cache",
    "dispatchers",
    "explore",
    "input",
    "jsonfile",
    "output",
    "version",
    "words",
}
"""The command line and the local page have pages of their own kind; the others are what the rooms stand on."""


def test_every_public_room_has_a_page() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(fluidgate.__path__)} - WITHOUT_A_PAGE
    assert rooms == {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}


def test_every_command_has_a_page_that_shows_its_options(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "command_line.py"), str(tmp_path)], check=True)
    listed = {path.name for path in (tmp_path / "commands").glob("*.md")}
    assert listed >= {"plan.md", "list.md", "calibrate-server.md", "trace-info.md", "experiment-gate.md"}
    for page in (DOCS / "commands").glob("*.md"):
        called = re.findall(r"^# fluidgate (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name.replace(" ", "-") for name in called] == [page.stem]
        assert f"{{include}} ../_build/commands/{page.name}\n" in page.read_text(encoding="utf-8")
    assert {path.name for path in (DOCS / "commands").glob("*.md")} == listed


def test_options_are_shown_whole(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "command_line.py"), str(tmp_path)], check=True)
    options = (tmp_path / "commands" / "plan.md").read_text(encoding="utf-8")
    signatures = re.findall(r"^:::\{option\} (.+)$", options, re.MULTILINE)
    assert "--scheduler-reserve-full-isl, --no-scheduler-reserve-full-isl" in signatures
    assert "--kv-cache-dtype <str>" in signatures


def test_every_public_name_has_a_docstring() -> None:
    for page in sorted((DOCS / "api").glob("*.md")):
        if page.stem == "index":
            continue
        room = importlib.import_module(f"fluidgate.{page.stem}")
        for name in getattr(room, "__all__", ()):
            thing = getattr(room, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                written = inspect.cleandoc(thing.__doc__ or "")
                assert written, f"{room.__name__}.{name}"
                assert not written.startswith(f"{name}("), f"{room.__name__}.{name}: the docstring is dataclass's own"


def test_the_page_on_policies_names_all_that_a_policy_sees() -> None:
    page = (DOCS / "policies.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)(?:\[\w+\])?`", page))
    assert named >= {*View._fields, "ARRIVED", "ADMITTED", "FIRST_TOKEN", "FINISHED", "PREEMPTED", "ABORTED", "SHED"}


def test_figures_are_shown_drawn_and_small() -> None:
    shown = set(re.findall(r"\(figures/(\w+)\.svg\)", (DOCS / "concepts.md").read_text(encoding="utf-8")))
    files = {path.stem: path for path in (DOCS / "figures").glob("*.svg")}
    assert shown == set(files)
    for name, path in files.items():
        assert path.stat().st_size < 100_000, f"{name}.svg"


def test_the_report_is_pictured_and_small() -> None:
    assert "(_static/report.png)" in (DOCS / "report.md").read_text(encoding="utf-8")
    assert 0 < (DOCS / "_static" / "report.png").stat().st_size < 200_000


def test_an_unknown_figure_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "figures" / "draw.py"), "nonesuch"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nonesuch" in done.stderr
    assert "greedy" in done.stderr
