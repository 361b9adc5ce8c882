"""Little's law, from the number in system."""

from __future__ import annotations

import numpy as np

from fluidgate.engine import RunRecords
from fluidgate.metrics import number_in_system


def mean_in_system(records: RunRecords) -> float:
    """Time average of the number in system from the first arrival to the last arrival or completion.

    By Little's law it is (arrivals per second) · (mean time in system) once everything has finished. NaN when no
    time passes.
    """
    times, counts = number_in_system(records)
    span_s = times[-1] - times[0]
    return float(counts[:-1] @ np.diff(times) / span_s) if span_s > 0 else float("nan")
