"""The gate as Ray Serve's request router, before two engines that stand in for vLLM's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")

from fluidgate import StepTime

from ..e2e.plans import write_plan
from .ray_campaign import campaign, running


def test_no_request_is_lost_in_the_books_of_ray_serve(tmp_path: Path) -> None:

    plan = write_plan(tmp_path / "plan.json", "fluid", rate=5.0, step=StepTime(0.005, 1e-5, 1e-7))
    with running(plan) as app:
        asyncio.run(campaign(app, seats=32))
