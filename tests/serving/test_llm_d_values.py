"""Thresholds for llm-d's Endpoint Picker, against numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fluidgate import EngineConfig, plan
from fluidgate.errors import InputError
from fluidgate.hardware import load_profile
from fluidgate.policies import make_policy
from fluidgate.serving import PlanFile
from fluidgate.serving.llm_d_values import EndpointPickerValues, endpoint_picker_config, endpoint_picker_values
from fluidgate.serving.plan_sections import Machine
from fluidgate.workload import generate


@pytest.fixture(scope="module")
def real() -> PlanFile:
    planned = plan(generate("azure-conv-2023", n=500, rate=4.0, seed=1), load_profile("llama-2-7b", "a100-80gb"))
    return PlanFile.of(
        planned, make_policy("fluid", planned), EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048)
    )


def with_values(plan_file: PlanFile, *, groups: int = 1, **values: float) -> PlanFile:
    """10,000 KV tokens; prompts of 100 tokens, answers of 300, 2 req/s at the boundary, 10% to stay free."""
    machine = Machine(name="by hand", num_gpu_blocks=626, block_size=16, kv_capacity_tokens=10_000, kv_groups=groups)
    numbers = {
        "mean_prompt_tokens": 100.0,
        "mean_output_tokens": 300.0,
        "boundary_rate": 2.0,
        "watermark": 0.1,
    } | values
    traffic = {name: value for name, value in numbers.items() if name.startswith("mean")}
    planned = {name: value for name, value in numbers.items() if not name.startswith("mean")}
    sections: dict[str, Any] = {
        "hardware": machine,
        "traffic": plan_file.traffic.model_copy(update=traffic),
        "planned": plan_file.planned.model_copy(update=planned),
    }
    return plan_file.model_copy(update=sections)


def test_a_busy_server_is_looked_at_as_often_as_can_be(real: PlanFile) -> None:
    """2 · 400 = 800 tokens/s are 8% of the cache: 1% in 0.125 s, so 0.2 s, and 1.6% unseen; a prompt is 1%."""
    values = endpoint_picker_values(with_values(real), replicas=3, max_wait_s=30.0)
    assert values == EndpointPickerValues(
        kv_cache_util=0.874,  # 1 - 0.1 - 0.01 - 0.016
        queue_depth=2,
        staleness_s=0.2,
        request_ttl_s=30.0,
        max_requests=180,
        inflow_share=0.08,
        prompt_share=0.01,
    )


def test_a_cache_that_fills_slowly_is_looked_at_seldom(real: PlanFile) -> None:
    """0.2 req/s are 0.8% a second: 1% in 1.25 s. 0.02 req/s: 12.5 s, of which 2 are taken, in which 0.16% fills."""
    slow = endpoint_picker_values(with_values(real, boundary_rate=0.2))
    assert (slow.kv_cache_util, slow.queue_depth, slow.staleness_s) == (0.88, 1, 1.25)
    slower = endpoint_picker_values(with_values(real, boundary_rate=0.02))
    assert (slower.kv_cache_util, slower.queue_depth, slower.staleness_s) == (0.888, 1, 2.0)
    assert (slower.request_ttl_s, slower.max_requests) == (None, None)


@pytest.mark.parametrize("rate", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("max_wait_s", [None, 30.0, 0.25])
def test_the_picker_reads_what_is_written(real: PlanFile, rate: float, max_wait_s: float | None) -> None:
    """Fields as llm-d-router 0.10 has them."""
    plan_file = with_values(real, boundary_rate=rate)
    values = endpoint_picker_values(plan_file, replicas=3, max_wait_s=max_wait_s)
    text = endpoint_picker_config(plan_file, values, "fluidgate serve-args", replicas=3)
    read = yaml.safe_load(text)
    assert (read["apiVersion"], read["kind"], read["featureGates"]) == (
        "llm-d.ai/v1alpha1",
        "EndpointPickerConfig",
        ["flowControl"],
    )
    detector, *scorers = read["plugins"]
    assert detector["type"] == "utilization-detector"
    assert detector["parameters"] == {
        "kvCacheUtilThreshold": values.kv_cache_util,
        "queueDepthThreshold": values.queue_depth,
        "metricsStalenessThreshold": f"{values.staleness_s * 1000:.0f}ms",
    }
    assert all(one["type"].endswith("-scorer") for one in scorers)
    most = {(0.02, 30.0): 1, (0.2, 30.0): 18, (2.0, 30.0): 180}  # rate · 3 · 30, and at least 1
    waits = {"maxRequests": most.get((rate, max_wait_s or 0.0), 1)}
    waits |= {"defaultRequestTTL": "30s" if max_wait_s == 30.0 else "250ms"}
    assert read.get("flowControl") == (None if max_wait_s is None else waits)


def test_every_value_has_its_reason_before_it(real: PlanFile) -> None:
    plan_file = with_values(real)
    text = endpoint_picker_config(plan_file, endpoint_picker_values(plan_file, max_wait_s=9.0), "fluidgate serve-args")
    for field in ("kvCacheUtil", "queueDepth", "metricsStaleness", "defaultRequestTTL", "maxRequests"):
        before = text.partition(f" {field}")[0].splitlines()[:-1]
        reason = " ".join(line.strip().removeprefix("# ") for line in before[-4:] if line.strip().startswith("# "))
        assert "default" in before[-1] or "default" in before[-2], field
        assert len(reason) > 40
    assert max(map(len, text.splitlines())) <= 88
    text = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    assert "10% that stays free" in text
    assert "8% of the KV cache fills in a second" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"watermark": 0.98}, "no share of the KV cache is left as a threshold: 98% is to stay free"),
        ({"mean_prompt_tokens": 9_500.0}, "a prompt takes 95%"),
        ({"groups": 2}, "the layers of by hand forget tokens"),
    ],
)
def test_plans_without_a_threshold_are_refused(real: PlanFile, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        endpoint_picker_values(with_values(real, **values))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"replicas": 0}, "replicas = 0"), ({"max_wait_s": 0.0}, "max_wait_s = 0"), ({"max_wait_s": 1e12}, "max_wait_s")],
)
def test_waits_and_numbers_that_cannot_be_are_refused(real: PlanFile, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        endpoint_picker_values(with_values(real), **options)


def test_the_threshold_leaves_more_room_than_the_watermark_alone(real: PlanFile) -> None:
    """The watermark counts the prompt that comes, and sees the cache as it is; the picker does neither."""
    values = endpoint_picker_values(real)
    assert 0.0 < values.kv_cache_util < 1.0 - real.planned.watermark
