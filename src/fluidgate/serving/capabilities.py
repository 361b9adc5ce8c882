"""What the scheduler of a vLLM version offers to the gate: one table instead of probes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from fluidgate.serving.counted_pool import unknown_kinds
from fluidgate.serving.versions import NEWEST, OLDEST, TESTED_VERSIONS, find_release, public

ANY_VERSION_VARIABLE = "FLUIDGATE_ANY_VLLM"
"""Environment variable: run the gate on versions outside the table as well."""

NATIVE_OFFLOAD = ("OffloadingConnector", "SimpleCPUOffloadConnector")
"""The connectors of `--kv-offloading-size`: they load while a request waits, which the books follow."""


@dataclass(frozen=True)
class Capabilities:
    """Names in a version's scheduler.

    Attributes:
        seats: what limits the residents at admission.
        waiting: the queues from which requests are admitted, except those that hold KV.
        holding: the queue of waiting requests that may hold KV: loads under way, streaming sessions.
        native_offload: whether the books can follow `--kv-offloading-size`.
    """

    seats: str
    waiting: tuple[str, ...]
    holding: str
    native_offload: bool


_SINCE: tuple[tuple[tuple[int, int], Capabilities], ...] = (
    ((0, 31), Capabilities("max_num_active_reqs", ("waiting",), "kv_holding_waiting", True)),
    ((0, 24), Capabilities("max_num_running_reqs", ("waiting", "skipped_waiting"), "skipped_waiting", False)),
)
"""Newest first; up to 0.30 blocked requests wait in a queue of their own."""


def capabilities_of(version: str) -> Capabilities:
    """What a version offers; one that is not in the table of versions is taken for the newest."""
    number = (find_release(version) or NEWEST).number
    return next(offered for since, offered in _SINCE if number >= since)


def unsupported(version: str, scheduler: Any) -> str | None:
    """Why the gate cannot run on this scheduler of vLLM `version`, in words; None if it can."""
    config = scheduler.vllm_config
    transfer = config.kv_transfer_config
    if find_release(version) is None and not os.environ.get(ANY_VERSION_VARIABLE):
        return (
            f"it runs on vLLM {OLDEST} to {NEWEST}, and this is {version}; "
            f"set {ANY_VERSION_VARIABLE}=1 to try it all the same"
        )
    offered = capabilities_of(version)
    needed = {offered.seats, *offered.waiting, offered.holding, "_pause_state", "current_step", "running"}
    absent = sorted(attribute for attribute in needed if not hasattr(scheduler, attribute))
    if absent:
        return f"the scheduler of this vLLM ({version}) has no {', '.join(absent)}"
    if config.scheduler_config.policy != "fcfs":
        return "priority scheduling is not supported; use --scheduling-policy fcfs"
    if config.speculative_config is not None:
        return "speculative decoding is not supported; leave --speculative-config out"
    unknown = unknown_kinds(scheduler.kv_cache_config.kv_cache_groups)
    if unknown:
        return f"groups of layers with a KV cache of the kind {', '.join(unknown)} are not supported"
    if transfer is not None and transfer.kv_connector not in NATIVE_OFFLOAD:
        return (
            f"the KV connector {transfer.kv_connector} is not supported, only --kv-offloading-size is; leave "
            "--kv-transfer-config out"
        )
    if transfer is not None and not offered.native_offload:
        return f"--kv-offloading-size is not supported on vLLM {version}, only from 0.31 on"
    return None


def describe(version: str) -> str:
    """A version, and whether it was tested, in words."""
    tested = public(version) in TESTED_VERSIONS
    return f"vLLM {version}, {'tested' if tested else 'not tested: the tests ran on ' + ', '.join(TESTED_VERSIONS)}"
