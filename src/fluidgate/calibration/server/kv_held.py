"""Whether a server's KV cache is as large as it states: what a known load takes of it."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from fluidgate.calibration.server.live_steps import PhaseLooks
from fluidgate.calibration.server.running_server import RunningServer
from fluidgate.words import number, percent

OFF = 1.5
"""A size is wrong from this factor on: a look may come between two steps, and blocks are full only in part."""

FULL_BLOCKS = 4
"""Blocks per request from which a look tells the size: with fewer, those that are not full weigh too much."""

MIN_LOOKS = 3


def kv_remark(server: RunningServer, runs: Iterable[PhaseLooks]) -> list[str]:
    """A sentence if the load took much more or less of the cache than it would of one of the stated size.

    The context lengths of all residents are known exactly (`Counters.context`), and prompts are not shared. In blocks
    they take up to a block per request more, and a prompt that is being computed is not counted yet.
    """
    least, most, use = [], [], []
    for run in runs:
        for look in run.looks:
            context, blocks = look.counters.context, look.running * run.block_size
            if look.running and look.kv_use and context >= FULL_BLOCKS * blocks:
                least.append(context / look.kv_use)
                most.append((context + blocks + run.prompt_tokens) / look.kv_use)
                use.append(look.kv_use)
    if len(least) < MIN_LOOKS:
        return []
    if median(least) <= OFF * server.kv_tokens and median(most) >= server.kv_tokens / OFF:
        return []
    held = number((median(least) + median(most)) / 2)
    return [
        f"the load took up to {percent(max(use))} of the KV cache, which makes it one of about {held} tokens, where "
        f"{number(server.kv_tokens)} are stated: the hardware file has the stated size; compare with the GPU KV cache "
        "size in the server's log, and calibrate again with it as --kv-cache-tokens"
    ]
