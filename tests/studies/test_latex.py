"""Tables in LaTeX: what is special there is escaped, and a LaTeX that is installed takes the table."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fluidgate.studies.latex import escaped, long_table

ROWS = [
    ("[2]: saturated", r"50% of a_b & {c}"),
    ("δ ≤ 0.1, (ζT)^½, M^π ÷ 2 ± 3 × −1–2", "# $5 <2> ~1 \\x"),
]
DOCUMENT = r"\documentclass{article}\usepackage{longtable,array}\begin{document}%s\end{document}"


def test_what_is_special_is_escaped() -> None:
    assert escaped("50% of a_b & {c}") == r"50\% of a\_b \& \{c\}"
    assert escaped("M^π ≤ 3") == r"M\textasciicircum{}$\pi$ $\le$ 3"
    table = long_table(("what", "value"), (0.5, 0.4), ROWS)
    assert table.isascii()
    assert table.count(r" \\") == 3
    assert "\n[" not in table  # else a row that begins with a bracket would be a length of the row before


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_takes_it(tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(DOCUMENT % long_table(("what", "value"), (0.5, 0.4), ROWS))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
