"""Coherence: how regular output lengths are, so that cohorts of requests stay in phase (model.md §8)."""

from __future__ import annotations

import numpy as np

from fluidgate.kernel import kernel
from fluidgate.policies.parts.length_law import CELLS, SHARE, SURVIVAL, WIDTH

FREQUENCIES = 64

LEAST = 1e-4
"""Share of the requests below which the endings of a cell are left out."""


@kernel
def coherence(memory, first_law, laws, law_size, mean_output):
    """χ = max |E exp(iωO)| over ω in [0.7, 6]·2π/E[O], for all laws together, each `law_size` behind the one before."""
    most, total = 0.0, 0.0
    for law in range(first_law, first_law + laws * law_size, law_size):
        total += memory[law + SHARE] * (memory[law + SURVIVAL] - memory[law + SURVIVAL + CELLS])
    for f in range(FREQUENCIES):
        omega = (0.7 + 5.3 * f / (FREQUENCIES - 1)) * 2.0 * np.pi / mean_output
        real, imaginary = 0.0, 0.0
        for law in range(first_law, first_law + laws * law_size, law_size):
            law_real, law_imaginary = _transform(memory, law, omega * memory[law + WIDTH])
            real += law_real
            imaginary += law_imaginary
        most = max(most, np.hypot(real, imaginary) / total)
    return most


@kernel
def _transform(memory, law, angle):
    """The sum over cells j of the share that ends there, times exp(i·angle·(j + 1)): real and imaginary part."""
    step_real, step_imaginary = np.cos(angle), np.sin(angle)
    at_real, at_imaginary = step_real, step_imaginary
    real, imaginary = 0.0, 0.0
    j = 0
    while j < CELLS and memory[law + SHARE] * memory[law + SURVIVAL + j] > LEAST:  # past these, every cell ends less
        ending = memory[law + SHARE] * (memory[law + SURVIVAL + j] - memory[law + SURVIVAL + j + 1])
        if ending > LEAST:
            real += ending * at_real
            imaginary += ending * at_imaginary
        at_real, at_imaginary = (
            at_real * step_real - at_imaginary * step_imaginary,
            at_real * step_imaginary + at_imaginary * step_real,
        )
        j += 1
    return real, imaginary
