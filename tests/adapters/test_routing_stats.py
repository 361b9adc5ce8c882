"""What replicas tell routers of themselves, whole or not at all."""

from __future__ import annotations

from math import nan

import pytest

from fluidgate.adapters.routing_stats import blocks_of, gauges_of
from fluidgate.fleet import Gauges


@pytest.mark.parametrize("missing", ["kv", "num_waiting_reqs", "num_running_reqs"])
def test_gauges_are_whole_or_none(missing: str) -> None:
    stats = {"kv": 0.5, "num_waiting_reqs": 2, "num_running_reqs": 3, "num_preempted": 4}
    assert gauges_of(stats, 9.0) == Gauges(2, 3, 0.5, 4, measured_s=9.0)
    assert gauges_of({name: value for name, value in stats.items() if name != missing}, 9.0) is None
    assert gauges_of({**stats, missing: "many"}, 9.0) is None
    assert gauges_of({**stats, missing: nan}, 9.0) is None


def test_blocks_are_those_that_hold_something() -> None:
    said = (160, 175, 16, -1, "many", nan)
    assert [blocks_of({"kv_cache_size": tokens}, 16) for tokens in said] == [9, 9, None, None, None, None]
    assert blocks_of({}, 16) is None
