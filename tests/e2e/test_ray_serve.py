"""The gate as Ray Serve's request router, before two vLLM engines on this machine's CPU."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ..adapters.ray_campaign import calm, running
from .conftest import RATE, ROUGH_STEP
from .plans import write_plan

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")


def test_every_request_is_served_and_in_the_books(model: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.json", "fluid", rate=2 * RATE, step=ROUGH_STEP)
    with running(plan, str(model)) as app:
        asyncio.run(calm(app))
