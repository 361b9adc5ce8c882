"""The table of docs/doctor.md that compares two doctors: our column is what doctor finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_our_column_is_what_doctor_finds() -> None:
    spec = importlib.util.spec_from_file_location("doctors", ROOT / "benchmarks" / "doctors.py")
    assert spec is not None
    assert spec.loader is not None
    doctors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doctors)
    lines = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8").splitlines()
    told = {cells[1]: cells[2] for line in lines if len(cells := [cell.strip() for cell in line.split("|")]) == 5}
    for what, text in doctors.PAGES.items():
        found = ", ".join(f"`{name}`" for name in doctors.ours(text)) or "nothing to change"
        assert told[what] == found, what
