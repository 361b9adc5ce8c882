"""Single steps from the log of a server that was started with `--enable-logging-iteration-details`.

A line has the step's tokens and, as "iteration elapsed time", how long the engine waited for the model
(v1/engine/core.py, `capture_iteration_details`): the work between two steps is missing, and with an executor that runs
the model before the wait begins, most of the model's time too. But a line is written when the step is counted, so the
length of the log at each look tells which lines lie between two looks. Their steps took the time between the looks, all
together. So a step lasts its elapsed time plus what is missing, which is taken as the same for every step of a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidgate.errors import InputError
from fluidgate.hardware.grids import StepPoints
from fluidgate.serving.live_steps import PhaseLooks, Window, points_of

LEAST_EXPLAINED = 0.5
"""Share of the time that the lines must account for; with less, only the mean of a window is known."""
_LINE = re.compile(
    rb"Iteration\(\d+\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, "
    rb"(\d+) generation tokens, iteration elapsed time: (\d+(?:\.\d+)?) ms(?! \(dummy\)).*?"
    rb"KV cache usage: (\d+(?:\.\d+)?)%"
)


class Iteration(NamedTuple):
    """One line: what a step computed, how long the engine waited for it, and the KV use after it."""

    requests: int
    prompt_tokens: int
    decodes: int
    elapsed_s: float
    kv_use: float

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return self.prompt_tokens + self.decodes


@dataclass(frozen=True)
class IterationLog:
    """A server's log, on this machine.

    Attributes:
        path: the file.
        kv_tokens, block_size: of the server's KV cache.
    """

    path: Path
    kv_tokens: int
    block_size: int

    def size(self) -> int:
        """Its length, bytes.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise InputError(f"{self.path}: the log cannot be read ({error.strerror}); see --log") from None

    def steps(self, phases: Sequence[PhaseLooks]) -> StepPoints:
        """The steps of all windows.

        Raises:
            InputError: a window without the lines of its steps.
        """
        rows = []
        for phase in phases:
            for window in phase.calm_windows():
                rows += self._window(phase, window)
        return points_of(rows)

    def _window(self, phase: PhaseLooks, window: Window) -> list[tuple[str, float, float, float, float]]:
        start, end = window.looks[0].log_bytes, window.looks[-1].log_bytes
        # The line before the window's first tells the KV in use when that step began.
        lines = self._between(max(phase.looks[0].log_bytes, start - 4096), end)
        inside = self._between(start, end)
        if len(inside) < window.added.iterations / 2:
            raise InputError(
                f"{self.path}: holds {len(inside)} 'Iteration' lines where the server counted "
                f"{window.added.iterations:,.0f} steps; start it with --enable-logging-iteration-details, and give the "
                "log that it writes now"
            )
        before = ([None, *lines] if len(lines) == len(inside) else lines)[-len(inside) - 1 : -1]
        elapsed_s = sum(line.elapsed_s for line in inside)
        missing_s = (window.duration_s - elapsed_s) / len(inside)
        rows = [
            (
                phase.name,
                float(line.tokens),
                self._context(line, earlier or line) + line.tokens,
                line.prompt_tokens * (phase.prompt_tokens + 1) / 2,
                line.elapsed_s + missing_s,
            )
            for earlier, line in zip(before, inside, strict=True)
        ]
        if elapsed_s >= LEAST_EXPLAINED * window.duration_s and missing_s > -min(line.elapsed_s for line in inside):
            return rows
        tokens, context, pairs, duration_s = np.array([row[1:] for row in rows]).mean(axis=0)
        return [(phase.name, tokens, context, pairs, duration_s)]

    def _context(self, line: Iteration, earlier: Iteration) -> float:
        """Tokens in the KV cache before a step: half of the last block of each request is empty."""
        return max(0.0, earlier.kv_use * self.kv_tokens - line.requests * self.block_size / 2)

    def _between(self, start: int, end: int) -> list[Iteration]:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                text = file.read(end - start)
        except OSError as error:
            raise InputError(f"{self.path}: the log cannot be read ({error.strerror}); see --log") from None
        return [
            Iteration(int(a) + int(c), int(b), int(d), float(ms) / 1e3, float(use) / 100)
            for a, b, c, d, ms, use in _LINE.findall(text)
        ]
