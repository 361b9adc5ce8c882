"""Tables for a paper in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

_ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "[": "{[}",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "−": "$-$",
    "÷": r"$\div$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "½": r"$\frac{1}{2}$",
    "Δ": r"$\Delta$",
    "δ": r"$\delta$",
    "ζ": r"$\zeta$",
    "θ": r"$\theta$",
    "π": r"$\pi$",
    "λ": r"$\lambda$",
}
"""What LaTeX would not take as it is: with these pdflatex needs no package. A bracket after a row would be a length."""


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(_ESCAPED.get(character, character) for character in text)


def long_table(head: Sequence[str], widths: Sequence[float], rows: Sequence[Sequence[str]]) -> str:
    r"""A `longtable` over pages, to be `\input`; needs the packages longtable and array.

    Args:
        head: of the columns.
        widths: of the columns, as shares of the line.
        rows: texts, which are escaped.
    """
    columns = "".join(rf">{{\raggedright\arraybackslash}}p{{{width:g}\linewidth}}" for width in widths)
    lines = [
        rf"\begin{{longtable}}{{@{{}}{columns}@{{}}}}",
        r"\hline",
        _row(head),
        r"\hline",
        r"\endhead",
        *map(_row, rows),
        r"\hline",
        r"\end{longtable}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
