"""A claim of one of the papers with its verdict, and whose the difference is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fluidgate.studies.paper.settings import FITTED, FOUR_TERM, VIDUR

Verdict = Literal["reproduced", "partly", "not"]
Owner = Literal["none", "ours, mended", "the paper's", "open"]
"""Whose a difference is: our model's, until its steps were Vidur's; the paper's; or not known."""

NEAR = 0.1
"""A rate within this share of the published one counts as the same: the machine is a model of theirs."""
NEAR_LATENCY = 0.25
"""The same of a mean latency; near the boundary one request per second moves it by more."""
CLEAR = 0.01
"""Differences up to this share count as none."""


@dataclass(frozen=True)
class Claim:
    """A claim of one of the papers with what was measured.

    Attributes:
        what: the claim, after the theorem, table or figure that makes it.
        published, measured: what the paper says and what comes out here, machine by machine.
        verdict: on the paper's own machine.
        owner: whose the difference is; none where there is none.
        shown: the table or page that shows it.
    """

    what: str
    published: str
    measured: str
    verdict: Verdict
    owner: Owner
    shown: str


def agreed(what: str, published: str, measured: str, same: bool, shown: str) -> Claim:
    """A claim about formulas and small models, which leave nothing to a machine; a difference is open."""
    return Claim(what, published, measured, "reproduced" if same else "not", "none" if same else "open", shown)


def judged(by_machine: Mapping[str, bool], otherwise: Owner, elsewhere: Owner = "open") -> tuple[Verdict, Owner]:
    """Verdict and owner of a claim that holds on some machines.

    On Vidur's steps, the paper's own, and as well on the four-term ones: no difference. Only with Vidur's steps: ours,
    mended. Only on others: partly, and `elsewhere` says whose. On none: `otherwise`.
    """
    good = {machine for machine, holds in by_machine.items() if holds}
    if good & {VIDUR, FITTED}:
        return "reproduced", "none" if FOUR_TERM in good else "ours, mended"
    if good:
        return "partly", "open" if FOUR_TERM in good else elsewhere
    return "not", otherwise


def by_machine(texts: Mapping[str, str]) -> str:
    """What came out on each machine, in a line."""
    return "; ".join(f"{machine} {text}" for machine, text in texts.items())


def listed(parts: Iterable[str]) -> str:
    """Parts with commas."""
    return ", ".join(parts)
