"""The picture of a calibration: every kind of step is named within it."""

import re

import numpy as np
import pytest

from fluidgate.calibration import StepPoints, calibrate_steps
from fluidgate.hardware import StepTime
from fluidgate.report import calibration_figure

PHASES = ["few decodes", "some decodes", "many decodes", "long contexts", "short prompts", "long prompts"]


@pytest.mark.parametrize("kinds", [["step"], ["decode", "prefill", "mixed"], PHASES])
def test_every_kind_is_named_within_the_picture(kinds: list[str]) -> None:
    rng = np.random.default_rng(0)
    tokens, kv_tokens = rng.uniform(1, 500, 120), rng.uniform(100, 9e4, 120)
    pairs = rng.uniform(0, 1e5, 120)
    sequences = rng.uniform(0, 1, 120) * tokens
    mean_s = StepTime(0.01, 1e-4, 2e-7, 1e-8, 1e-5).duration_s(tokens, kv_tokens, pairs, sequences)
    duration_s = mean_s * rng.normal(1, 0.02, 120)
    duration_s[::20] *= 5  # outliers
    kind = np.array([kinds[i % len(kinds)] for i in range(120)])
    picture = str(
        calibration_figure(calibrate_steps(StepPoints(kind, tokens, kv_tokens, pairs, sequences, duration_s)))
    )
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', picture).groups())  # type: ignore[union-attr]
    for name in [*kinds, "outlier"]:
        text = re.search(rf"<text([^>]*)>{name}</text>", picture)
        assert text is not None, name
        x, y = (float(re.search(rf'\b{axis}="([^"]+)"', text[1])[1]) for axis in "xy")  # type: ignore[index]
        assert x + 7 * len(name) <= width
        assert y <= height
