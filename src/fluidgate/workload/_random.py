"""Seeds: checked once, turned into separate streams."""

from __future__ import annotations

import numpy as np

from fluidgate.bounds import MAX_SEED, check_whole
from fluidgate.errors import InputError


def random_streams(seed: int, count: int) -> list[np.random.SeedSequence]:
    """`count` independent streams of one seed. Errors: InputError unless it is a whole number ≥ 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed = {seed!r} must be a whole number, at least 0")
    check_whole("seed", seed, 0, MAX_SEED)
    return np.random.SeedSequence(int(seed)).spawn(count)
