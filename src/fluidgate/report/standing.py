"""How a policy stands beside the recommended one: equal, near, undecided or worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fluidgate.report.criteria import MOST_REPEATS, TIE_BREAKERS, Criterion, Difference
from fluidgate.report.words import counted
from fluidgate.runs import Cell
from fluidgate.words import listed


@dataclass(frozen=True)
class Equal:
    """Every difference lies within its margin, and none is shown."""

    policy: str

    @property
    def sentence(self) -> str:
        """For the page."""
        return "equal within the margins"


@dataclass(frozen=True)
class Undecided:
    """No difference is shown, nor that there is none.

    Attributes:
        open: the criteria whose interval reaches beyond the margin.
        done: the repeats there are.
        repeats: about how many would decide; None where one repeat gives no interval.
    """

    policy: str
    open: tuple[str, ...]
    done: int
    repeats: int | None

    @property
    def sentence(self) -> str:
        """For the page."""
        return f"undecided by {listed(self.open)} after {counted(self.done, 'repeat')}; {_enough(self.repeats)}"


@dataclass(frozen=True)
class Near:
    """Differences are shown, and none is shown to be beyond its margin.

    Attributes:
        beside: the policy it is compared with.
        better, worse: the differences whose interval excludes zero.
        within: whether all lie within the margins, but for evictions and recomputation, which have none.
        undecided: what is open besides.
    """

    policy: str
    beside: str
    better: tuple[Difference, ...]
    worse: tuple[Difference, ...]
    within: bool
    undecided: Undecided | None = None

    @property
    def equal(self) -> bool:
        """Whether what is shown is too little to matter."""
        breaks = any(d.criterion in TIE_BREAKERS for d in (*self.better, *self.worse))
        return self.within and not breaks

    @property
    def sentence(self) -> str:
        """For the page."""
        sides = [
            f"{word} than {self.beside} by {listed([str(d) for d in shown])}"
            for word, shown in (("better", self.better), ("worse", self.worse))
            if shown
        ]
        scope = "within the margins" if self.within else "not shown to be beyond the margins"
        return f"{', and '.join(sides)}, though {scope}" + (f"; {self.undecided.sentence}" if self.undecided else "")


@dataclass(frozen=True)
class Worse:
    """Removed by the rule.

    Attributes:
        sentence: what speaks against it.
    """

    policy: str
    sentence: str


Standing = Equal | Near | Undecided | Worse


def standing(cell: Cell, pick: Cell, by: Sequence[Criterion]) -> Equal | Near | Undecided:
    """Of a policy that the rule did not remove, beside the one it chose."""
    main = [Difference.of(cell, pick, criterion) for criterion in by]
    every = [*main, *(Difference.of(cell, pick, criterion) for criterion in TIE_BREAKERS)]
    better, worse = (tuple(d for d in every if d.shown == word) for word in ("better", "worse"))
    unsettled = [d for d in main if not d.within and d.shown is None]
    undecided = _undecided(cell, unsettled) if unsettled else None
    if better or worse:
        return Near(cell.policy, pick.policy, better, worse, all(d.within for d in main), undecided)
    return undecided or Equal(cell.policy)


def _undecided(cell: Cell, unsettled: Sequence[Difference]) -> Undecided:
    """One difference beyond its margin decides; else all must be shown to lie within."""
    needed = [d.repeats_to_decide for d in unsettled]
    beyond = [n for d, n in zip(unsettled, needed, strict=True) if n is not None and abs(d.mean) > d.margin]
    known = [n for n in needed if n is not None]
    repeats = None if len(known) < len(needed) else min(beyond) if beyond else max(known)
    return Undecided(cell.policy, tuple(d.criterion.words for d in unsettled), len(cell.summaries), repeats)


def _enough(repeats: int | None) -> str:
    if repeats is None:
        return "one repeat gives no interval, so run three or more"
    return f"{f'more than {MOST_REPEATS}' if repeats > MOST_REPEATS else f'about {repeats}'} would decide"
