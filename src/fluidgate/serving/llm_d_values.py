"""Values for llm-d's Endpoint Picker from a plan: its saturation detector, and how long and how many wait in its queue.

Fields and defaults are those of llm-d-router 0.10 (`utilization-detector`, `EndpointPickerConfig` of llm-d.ai/v1alpha1,
before that part of llm-d-inference-scheduler and of the Gateway API Inference Extension).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from textwrap import fill

from fluidgate.bounds import MAX_COUNT, MAX_REPLICAS, MAX_SECONDS, check_whole
from fluidgate.errors import InputError
from fluidgate.serving.planfile import PlanFile
from fluidgate.words import number, percent

ENGINE_QUEUE_S = 1.0
"""How long a request may wait in an engine's own queue, seconds: the picker's, which is in order, holds the others."""

UNSEEN_SHARE = 0.01
"""Of the KV cache: what may fill between two looks at a server."""

FRESHEST_S, STALEST_S = 0.2, 2.0
"""Bounds of the age at which metrics are stale: four looks of 50 ms, the picker's default; one missed scrape or two."""


@dataclass(frozen=True)
class EndpointPickerValues:
    """What the Endpoint Picker is to be set to.

    Attributes:
        kv_cache_util: share of a server's KV cache in use from which it is saturated.
        queue_depth: requests in a server's own queue from which it is saturated.
        staleness_s: age of metrics from which a server counts as saturated, seconds, whole milliseconds.
        request_ttl_s: how long a request waits in the picker, seconds; None: the picker's default.
        max_requests: requests that wait in it; None: the picker's default.
        inflow_share: of a server's KV cache that fills within a second at the boundary, while nothing ends.
        prompt_share: of it, a mean prompt.
    """

    kv_cache_util: float
    queue_depth: int
    staleness_s: float
    request_ttl_s: float | None
    max_requests: int | None
    inflow_share: float
    prompt_share: float


def endpoint_picker_values(
    plan: PlanFile, *, replicas: int = 1, max_wait_s: float | None = None
) -> EndpointPickerValues:
    """The values for replicas as planned.

    Args:
        replicas: behind the picker.
        max_wait_s: how long requests may wait in it.

    Raises:
        InputError: a plan from which no threshold follows: layers that forget tokens, or a cache so small that no share
            of it is left; a wait or a number that cannot be.
    """
    check_whole("replicas", replicas, 1, MAX_REPLICAS)
    if max_wait_s is not None and not 0 < max_wait_s <= MAX_SECONDS:
        raise InputError(f"max_wait_s = {max_wait_s} must be above 0 and at most {MAX_SECONDS:g} seconds")
    machine, traffic, planned = plan.hardware, plan.traffic, plan.planned
    if machine.kv_groups > 1:
        raise InputError(
            f"the layers of {machine.name} forget tokens, so no share of blocks follows from the plan's tokens; "
            "set llm-d's thresholds by hand, or run fluidgate's scheduler in the servers"
        )
    tokens_per_s = planned.boundary_rate * (traffic.mean_prompt_tokens + traffic.mean_output_tokens)
    inflow, prompt = tokens_per_s / machine.kv_capacity_tokens, traffic.mean_prompt_tokens / machine.kv_capacity_tokens
    staleness_s = _down(1000 * min(max(UNSEEN_SHARE / inflow, FRESHEST_S), STALEST_S)) / 1000
    threshold = _down(1000 * (1.0 - planned.watermark - prompt - inflow * staleness_s)) / 1000
    if threshold <= 0.0:
        raise InputError(
            f"no share of the KV cache is left as a threshold: {percent(planned.watermark)} is to stay free, a prompt "
            f"takes {percent(prompt)}, and {percent(inflow * staleness_s)} fills unseen; plan for a larger cache"
        )
    rate, depth = planned.boundary_rate, _at_least_one(planned.boundary_rate * ENGINE_QUEUE_S)
    waiting = None if max_wait_s is None else _at_least_one(rate * replicas * max_wait_s)
    return EndpointPickerValues(threshold, depth, staleness_s, max_wait_s, waiting, inflow, prompt)


def _at_least_one(requests: float) -> int:
    return min(max(1, _down(requests)), MAX_COUNT)


def _down(value: float) -> int:
    return floor(value + 1e-9)  # 2.999999999999999 is 3


def endpoint_picker_config(plan: PlanFile, values: EndpointPickerValues, command: str, replicas: int = 1) -> str:
    """YAML of an `EndpointPickerConfig` with these values, each with its reason; `command` is what made it."""
    free, unseen = percent(plan.planned.watermark), percent(values.inflow_share * values.staleness_s)
    rate = number(plan.planned.boundary_rate)
    threshold = (
        f"1 less {free} that stays free for what residents may still need (two sd), {percent(values.prompt_share)} for "
        f"the prompt that is let in, and {unseen} that fills before metrics are stale. By default 0.8."
    )
    depth = (
        f"What a server starts in {number(ENGINE_QUEUE_S)} s at its boundary of {rate} req/s, at least 1; the others "
        "wait in the picker. By default 5."
    )
    return f"""\
# Thresholds of the Endpoint Picker of llm-d, for llm-d-router 0.10.
# Made by: {command}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates:
  - flowControl # where servers are saturated, requests wait in the picker
plugins:
  - type: utilization-detector # says that, where no other detector is named
    parameters:
{_comment(threshold, 6)}
      kvCacheUtilThreshold: {values.kv_cache_util:g}
{_comment(depth, 6)}
      queueDepthThreshold: {values.queue_depth}
{_comment(f"{_staleness_reason(values)} By default 200ms.", 6)}
      metricsStalenessThreshold: {round(1000 * values.staleness_s)}ms
  # Among servers that are not saturated; of these a plan says nothing.
  - type: prefix-cache-scorer
  - type: kv-cache-utilization-scorer
  - type: queue-scorer
{_flow_control(rate, values, replicas)}"""


def _comment(text: str, indent: int) -> str:
    head = " " * indent + "# "
    return fill(text, 88, initial_indent=head, subsequent_indent=head)


def _staleness_reason(values: EndpointPickerValues) -> str:
    fills = f"{percent(values.inflow_share)} of the KV cache fills in a second at the boundary if nothing ends:"
    if values.staleness_s <= FRESHEST_S:
        return f"{fills} as fresh as four looks of 50 ms."
    if values.staleness_s >= STALEST_S:
        return f"{fills} {number(STALEST_S)} s outlast a look that fails, and are harmless."
    return f"{fills} {percent(UNSEEN_SHARE)} in this time."


def _duration(seconds: float) -> str:
    """As Go reads it."""
    return f"{seconds:.0f}s" if seconds % 1 == 0 else f"{max(1, round(1000 * seconds))}ms"


def _flow_control(rate: str, values: EndpointPickerValues, replicas: int) -> str:
    if values.request_ttl_s is None:
        return ""
    servers = "the server starts" if replicas == 1 else f"{replicas} servers start"
    most = f"What {servers} within that wait at {rate} req/s each: more would wait for nothing. No limit by default."
    return f"""\
flowControl:
  # The longest wait, as given; then HTTP 429. By default 60s.
  defaultRequestTTL: {_duration(values.request_ttl_s)}
{_comment(most, 2)}
  maxRequests: {values.max_requests}
"""
