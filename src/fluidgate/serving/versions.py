"""What is shown on which vLLM, in one table; `python -m fluidgate.serving.versions` prints it as docs/deploy.md has it.

Needs no vLLM itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from fluidgate.errors import InputError


@dataclass(frozen=True, order=True)
class Release:
    """A minor release of vLLM with all its patches.

    Attributes:
        number: (0, 32) for vLLM 0.32.
        tested: the version that `make test` runs on; None: only the releases around this one are tested.
        equal: whether `emulate` on the tested version equals `simulate` to the last bit.
    """

    number: tuple[int, int]
    tested: str | None = None
    equal: bool = False

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


RELEASES = (
    Release((0, 24), "0.24.0"),
    Release((0, 25)),
    Release((0, 26)),
    Release((0, 27)),
    Release((0, 28), "0.28.0"),
    Release((0, 29)),
    Release((0, 30), "0.30.0", equal=True),
    Release((0, 31), "0.31.0", equal=True),
    Release((0, 32), "0.32.0", equal=True),
    Release((0, 33), "0.33.0", equal=True),
)
"""The releases that the gate runs on, oldest first."""

OLDEST, NEWEST = RELEASES[0], RELEASES[-1]

LONE_PREFILL_SPARED_SINCE = (0, 31)
"""From here on `long_prefill_token_threshold` does not cut a request that is alone; see `EngineConfig`."""

FLAG_SINCE = {"--max-num-queued-reqs": (0, 29), "--max-num-active-seqs": (0, 31)}
"""Flags of `vllm serve` that the older of these releases do not have."""

TESTED_VERSIONS = tuple(release.tested for release in RELEASES if release.tested)
"""What the plugin's tests run on."""

EQUAL_VERSIONS = tuple(release.tested for release in RELEASES if release.tested and release.equal)
"""What `emulate` was shown equal on."""

PREFILLS_SPACED_SINCE = (0, 33)
"""From here on `--prefill-schedule-interval` holds on an engine by itself; before, on data-parallel ranks alone."""

GROUPS_SINCE = (0, 32)
"""From here on vLLM keeps several KV groups as `engine.kv_groups` does; those with states on this release alone."""


def public(version: str) -> str:
    """`version` without the name of its build: "0.32.0" for "0.32.0+cpu"."""
    return version.partition("+")[0]


def find_release(version: str) -> Release | None:
    """The release that `version` ("0.32", "0.32.1", "0.32.0+cpu") belongs to, None if it is not in the table."""
    return next((release for release in RELEASES if release.number == _number(version)), None)


def known_release(version: str) -> Release:
    """`find_release`, for a version that a user typed.

    Raises:
        InputError: it is not in the table.
    """
    release = find_release(version)
    if release is None:
        raise InputError(
            f"vLLM {version!r} is not a version that fluidgate knows; give one from {OLDEST} to {NEWEST}, such as "
            f"{NEWEST.tested}"
        )
    return release


def keeps_groups_alike(version: str, kinds: Collection[str]) -> bool:
    """Whether vLLM `version` keeps several KV groups of such kinds as the engine does; of a version outside the table,
    as of the newest one."""
    number = (find_release(version) or NEWEST).number
    return number == GROUPS_SINCE or (number > GROUPS_SINCE and "state" not in kinds)


def spaces_prefills(version: str) -> bool:
    """Whether this vLLM follows `prefill_schedule_interval` on one engine; one outside the table is as the newest."""
    return (find_release(version) or NEWEST).number >= PREFILLS_SPACED_SINCE


def cuts_lone_prefill(version: str) -> bool:
    """Whether this vLLM follows the engine's rule `cut_lone_prefill`; a version that cannot be parsed counts as new."""
    number = _number(version)
    return number is not None and number < LONE_PREFILL_SPARED_SINCE


def _number(version: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)(?:[.+]|$)", version)
    return (int(match[1]), int(match[2])) if match else None


def support_table() -> str:
    """The table in Markdown, newest first."""
    lines = ["| vLLM | the gate | `emulate` equals `simulate` | flags it lacks |", "|---|---|---|---|"]
    for release in reversed(RELEASES):
        gate = f"tested on {release.tested}" if release.tested else "runs, not tested"
        equal = "not shown"
        if release.equal:
            equal = f"shown on {release.tested}" + " with `cut_lone_prefill`" * cuts_lone_prefill(str(release))
        lacks = ", ".join(f"`{flag}`" for flag, since in FLAG_SINCE.items() if since > release.number)
        lines.append(f"| {release} | {gate} | {equal} | {lacks or 'none'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(support_table())
