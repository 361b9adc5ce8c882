"""`Target`: what a study holds a policy to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A target with its outcome; `where` is the case that comes out worst."""

    what: str
    goal: str
    measured: str
    verdict: str
    where: str
