"""Single steps from the log of a server that was started with `--enable-logging-iteration-details`.

A line has the step's tokens and, as "iteration elapsed time", how long the engine waited for the model
(v1/engine/core.py, `capture_iteration_details`): the work between two steps is missing, and with an executor that runs
the model before the wait begins, most of the model's time too. But a line is written when the step is counted, so the
length of the log at each look tells which lines lie between two looks. Together their steps took the time between the
looks. So a step lasts its elapsed time plus what is missing, which is taken as the same for every step of a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidgate.bounds import MAX_COUNT, MAX_STEP_S
from fluidgate.calibration.points import StepPoints, StepRow, points_of
from fluidgate.calibration.server.live_steps import PhaseLooks, Window
from fluidgate.errors import InputError
from fluidgate.input import MAX_BYTES
from fluidgate.words import shown

MIN_EXPLAINED = 0.5
"""Share of the time that the lines must account for; with less, only the mean of a window is known."""
_LINE = re.compile(
    rb"Iteration\(\d+\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, "
    rb"(\d+) generation tokens, iteration elapsed time: (\d+(?:\.\d+)?) ms(?! \(dummy\)).*?"
    rb"KV cache usage: (\d+(?:\.\d+)?)%"
)

LARGEST = (MAX_COUNT, MAX_COUNT, MAX_COUNT, MAX_COUNT, MAX_STEP_S * 1e3, 100.0)
"""Of the numbers of a line, in order."""


class Iteration(NamedTuple):
    """One line: where it ends in the file, what its step computed, and the share of KV in use before it."""

    end: int
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
            InputError: a window without the lines of its steps, a line that vLLM does not write, or a log that shrank.
        """
        rows = []
        for phase in phases:
            sizes = [look.log_bytes for look in phase.looks]
            if sizes != sorted(sizes):
                raise InputError(f"{self.path}: shrank during the measurement; calibrate again without log rotation")
            lines = self._lines(sizes[0], sizes[-1])
            for window in phase.calm_windows():
                start, end = window.looks[0].log_bytes, window.looks[-1].log_bytes
                rows += self._window(phase, window, [line for line in lines if start < line.end <= end])
        return points_of(rows)

    def _window(self, phase: PhaseLooks, window: Window, lines: Sequence[Iteration]) -> list[StepRow]:
        if len(lines) < window.added.iterations / 2:
            raise InputError(
                f"{self.path}: holds {len(lines)} 'Iteration' lines where the server counted "
                f"{window.added.iterations:,.0f} steps; start it with --enable-logging-iteration-details, and give the "
                "log that it writes now"
            )
        elapsed_s = np.array([line.elapsed_s for line in lines])
        missing_s = (window.duration_s - elapsed_s.sum()) / len(lines)
        values = np.column_stack(
            [
                [line.tokens for line in lines],
                [self._context(line) + line.tokens for line in lines],
                [line.prompt_tokens * (phase.prompt_tokens + 1) / 2 for line in lines],
                [line.requests for line in lines],
                elapsed_s + missing_s,
            ]
        )
        if elapsed_s.sum() < MIN_EXPLAINED * window.duration_s or values[:, -1].min() <= 0:
            values = values.mean(axis=0, keepdims=True)
        return [(phase.name, *row) for row in values.tolist()]

    def _context(self, line: Iteration) -> float:
        """Tokens in the KV cache before a step: half of the last block of each request is empty."""
        return max(0.0, line.kv_use * self.kv_tokens - line.requests * self.block_size / 2)

    def _lines(self, start: int, end: int) -> list[Iteration]:
        """The lines of a part of the file; each gives the KV in use after it, so before the next."""
        if end - start > MAX_BYTES:
            raise InputError(
                f"{self.path}: grew by more than {MAX_BYTES // 2**20} MiB in one phase; give the log of this server "
                "alone, or a shorter --time-s"
            )
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                text = file.read(end - start)
        except OSError as error:
            raise InputError(f"{self.path}: the log cannot be read ({error.strerror}); see --log") from None
        lines, kv_use = [], 0.0
        for match in _LINE.finditer(text):
            numbers = [float(group) for group in match.groups()]
            if np.any(np.array(numbers) > LARGEST):
                line = shown(match[0].decode(errors="replace"))
                raise InputError(f"{self.path}: {line} holds a number that is too large; give the log of vLLM itself")
            prompts, prompt_tokens, decodes, _, elapsed_ms, after = numbers
            sizes = int(prompts + decodes), int(prompt_tokens), int(decodes)
            lines.append(Iteration(start + match.end(), *sizes, elapsed_ms / 1e3, kv_use))
            kv_use = after / 100
        return lines
