"""The gate as Ray Serve's request router, before two vLLM engines on this machine's CPU."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ..adapters.ray_campaign import campaign, running
from .conftest import RATE, ROUGH_STEP
from .plans import write_plan
from .server import SEATS

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")


def test_no_request_is_lost_in_the_books_before_vllm(model: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.json", "fluid", rate=2 * RATE, step=ROUGH_STEP)
    with running(plan, str(model)) as app:
        asyncio.run(campaign(app, SEATS))
