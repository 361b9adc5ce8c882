"""The gate as Ray Serve's request router, before two engines that stand in for vLLM's."""

from __future__ import annotations

import asyncio
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")

from fluidgate import StepTime
from fluidgate.adapters.ray_serve import _extra, _seconds, _Stream

from ..e2e.plans import write_plan
from .ray_campaign import campaign, running


def test_no_request_is_lost_in_the_books_of_ray_serve(tmp_path: Path) -> None:

    plan = write_plan(tmp_path / "plan.json", "fluid", rate=5.0, step=StepTime(0.005, 1e-5, 1e-7))
    with running(plan) as app:
        asyncio.run(campaign(app, seats=32))


def test_a_stream_counts_its_items_or_what_a_whole_answer_says() -> None:
    told: list[int] = []
    stream = _Stream(told.append)
    for item in ("a", ["b", "c"], b"d"):
        stream.seen(item)
    assert (stream.tokens, told) == (4, [1])  # and it tells a few times a second
    usage = {"prompt_tokens": 5, "completion_tokens": 77}
    for answer in ({"usage": usage}, SimpleNamespace(usage=SimpleNamespace(**usage))):
        whole = _Stream(told.append)
        whole.seen(answer)
        assert whole.tokens == 77


def test_what_a_request_says_does_no_harm() -> None:
    assert _extra((SimpleNamespace(vllm_xargs={"a": 1}),)) == _extra(({"vllm_xargs": {"a": 1}},)) == {"a": 1}
    assert _extra((7, "text", None, {"vllm_xargs": "odd"})) == {}
    assert [_seconds(value) for value in (30, 2.5, None, "30", True, nan, -1, 0)] == [30, 2.5, *[inf] * 6]
    assert 0 < _seconds(inf) < inf
