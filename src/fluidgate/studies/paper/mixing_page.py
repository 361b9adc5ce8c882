"""The table of mixed output lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluidgate.studies.markdown import section, table
from fluidgate.studies.paper.mixing import (
    APART,
    IN_TURNS,
    MIXED,
    MIXTURES,
    ORDERS,
    PUBLISHED,
    PUBLISHED_PER_ITERATION,
    SCALE,
    common_divisor,
    largest_root,
    mean_of,
)

if TYPE_CHECKING:
    from fluidgate.studies.paper.study import PaperResult


def mixing(result: PaperResult) -> str:
    """Every mixture behind every router."""
    note = (
        "Two replicas, a standing queue. Of the groups and of all lengths: the greatest common divisor, and the factor "
        "by which a disturbance of the eviction-free point grows in an iteration (below 1: stable). Completions of "
        f"both replicas per iteration, share of x\\*, restarts per request; memory of *{PUBLISHED}* is {SCALE} times "
        f"the published one, completions are divided by that: published {PUBLISHED_PER_ITERATION[0]} apart and "
        f"{PUBLISHED_PER_ITERATION[1]} mixed."
    )
    about = [
        (
            f"{name}: {_lengths(mixture.groups[0])} and {_lengths(mixture.groups[1])}",
            *(f"{common_divisor(of)}; {largest_root(of):.3f}" for of in (*mixture.groups, mixture.every)),
        )
        for name, mixture in MIXTURES.items()
    ]
    rows = [
        (f"{name}, types {order}", *(_cell(result, name, router, order) for router in (APART, IN_TURNS, MIXED)))
        for name in MIXTURES
        for order in ORDERS
    ]
    return section(
        "Mixing of output lengths",
        note,
        table(("l/o", "first group", "second group", "all"), about),
        table(("", APART, IN_TURNS, MIXED), rows),
    )


def _lengths(group: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{prompt}/{output}" for prompt, output in group)


def _cell(result: PaperResult, name: str, router: str, order: str) -> str:
    rate, share, restarts = (
        mean_of(result.mixing, key, name, router, order) for key in ("per_iteration", "share", "restarts")
    )
    return f"{rate / (SCALE if name == PUBLISHED else 1):.2f} ({share:.3f} x\\*, {restarts:.2f})"
