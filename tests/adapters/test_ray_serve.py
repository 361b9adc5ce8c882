"""The gate as Ray Serve's request router, before two engines that stand in for vLLM's."""

from __future__ import annotations

import asyncio
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")

from fluidgate import StepTime
from fluidgate.adapters.ray_serve import _blocks, _extra, _gauges, _seconds, _Stream
from fluidgate.fleet import Gauges

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
    for answer in ({"usage": {"completion_tokens": 77}}, SimpleNamespace(usage=SimpleNamespace(completion_tokens=77))):
        whole = _Stream(told.append)
        whole.seen(answer)
        assert whole.tokens == 77


@pytest.mark.parametrize("missing", ["kv", "num_waiting_reqs", "num_running_reqs"])
def test_gauges_are_whole_or_none(missing: str) -> None:
    stats = {"kv": 0.5, "num_waiting_reqs": 2, "num_running_reqs": 3, "num_preempted": 4}
    assert _gauges(stats, 9.0) == Gauges(2, 3, 0.5, 4, measured_s=9.0)
    assert _gauges({name: value for name, value in stats.items() if name != missing}, 9.0) is None
    assert _gauges({**stats, missing: "many"}, 9.0) is None
    assert _gauges({**stats, missing: nan}, 9.0) is None
    assert (_blocks({"kv_cache_size": 160}, 16), _blocks({}, 16), _blocks({"kv_cache_size": 16}, 16)) == (9, None, None)


def test_what_a_request_says_does_no_harm() -> None:
    assert _extra((SimpleNamespace(vllm_xargs={"a": 1}),)) == _extra(({"vllm_xargs": {"a": 1}},)) == {"a": 1}
    assert _extra((7, "text", None, {"vllm_xargs": "odd"})) == {}
    assert [_seconds(value) for value in (30, 2.5, None, "30", True, nan, -1, 0)] == [30, 2.5, *[inf] * 6]
    assert 0 < _seconds(inf) < inf
