"""The gate as Ray Serve's request router, before two engines that stand in for vLLM's."""

from __future__ import annotations

import asyncio
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'fluidgate[ray-serve]'")

from ray.serve._private.common import DeploymentID
from ray.serve.request_router import ReplicaID

from fluidgate import StepTime
from fluidgate.adapters.entrance import Entrance
from fluidgate.adapters.planned import Planned
from fluidgate.adapters.prompts import PromptSizes
from fluidgate.adapters.ray_serve import FluidRouter, _extra, _seconds, _Stream, name_of

from ..e2e.plans import write_plan
from .ray_campaign import campaign, running


def test_no_request_is_lost_in_the_books_of_ray_serve(tmp_path: Path) -> None:

    plan = write_plan(tmp_path / "plan.json", "fluid", rate=5.0, step=StepTime(0.005, 1e-5, 1e-7))
    with running(plan) as app:
        asyncio.run(campaign(app, seats=32))


def test_a_request_whose_replica_is_taken_away_before_it_is_sent_goes_elsewhere(tmp_path: Path) -> None:
    """As where a deployment shrinks between the gate's answer and Ray Serve's next step."""
    plan = write_plan(tmp_path / "plan.json", "fluid", rate=5.0, step=StepTime(0.005, 1e-5, 1e-7))
    router = object.__new__(FluidRouter)
    router._planned, router._sizes = Planned.load(plan), PromptSizes()
    router.entrance = Entrance(router._planned.gate())
    a, b = ReplicaID("a", DeploymentID("engine")), ReplicaID("b", DeploymentID("engine"))
    router._replicas = {one: SimpleNamespace(replica_id=one) for one in (a, b)}
    for name in "ab":
        router.entrance.add(router._planned.replica(name))
    metadata = SimpleNamespace(internal_request_id="1", session_id="")
    pending = SimpleNamespace(metadata=metadata, args=["a prompt"], kwargs={}, routing_context=SimpleNamespace())

    def chosen() -> list[str]:
        (replicas,) = asyncio.run(router.choose_replicas(list(router._replicas.values()), pending))
        return [name_of(replica.replica_id) for replica in replicas]

    assert chosen() == chosen() == ["a"]
    assert pending.routing_context.should_backoff
    del router._replicas[a]
    router.entrance.suspend("a")
    assert chosen() == ["b"]
    assert (router.entrance.ledger.came, router.entrance.in_flight) == (1, {"1": "b"})
    router._heard = {}
    del router._replicas[b]
    router._forget_gone()
    assert list(router.entrance.replicas) == ["b"]  # it serves what it has
    router.entrance.end("1")
    router._forget_gone()
    assert list(router.entrance.replicas) == []


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
