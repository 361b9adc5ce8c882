"""What files beside the code say of it: the version, the modes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from fluidgate.engine import MODES

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [project["version"]]


def test_the_engine_page_shows_every_mode() -> None:
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    modes = page.partition("## Modes")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", modes, re.MULTILINE) == list(MODES)
