"""`Histogram`: what a Prometheus histogram says, and how far it leaves the values open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Self

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_NUMBER
from fluidgate.errors import InputError


@dataclass(frozen=True, eq=False)
class Histogram:
    """Values counted by bucket; a bucket holds those above the last edge and up to its own.

    Attributes:
        edges: upper edges, rising, shape (B,); the last is infinite.
        counts: values in each bucket, shape (B,), at least 0.
        total: sum of the values.
    """

    edges: FloatArray
    counts: FloatArray
    total: float

    @classmethod
    def of_cumulative(cls, edges: Sequence[float], up_to: Sequence[float], total: float, where: str) -> Self:
        """From Prometheus' own buckets, which count every value up to their edge.

        Raises:
            InputError: edges that do not rise to +Inf, counts that fall or are no counts, a sum that is no number.
        """
        order = np.argsort(np.asarray(edges, dtype=np.float64), kind="stable")
        sorted_edges = np.asarray(edges, dtype=np.float64)[order]
        counts = np.diff(np.asarray(up_to, dtype=np.float64)[order], prepend=0.0)
        if len(edges) < 2 or sorted_edges[-1] != inf or np.any(np.diff(sorted_edges) <= 0):
            raise InputError(f"{where}: a histogram needs rising bucket edges up to +Inf; scrape the page again")
        if not ((counts >= 0).all() and counts.max() <= MAX_NUMBER and isfinite(total) and total >= 0):
            raise InputError(
                f"{where}: the counts of a histogram must rise and its sum be finite; scrape the page again"
            )
        if max(np.abs(sorted_edges[:-1]).max(), total) > MAX_NUMBER:
            raise InputError(
                f"{where}: a histogram's edges and sum must be at most {MAX_NUMBER:g}; scrape the page again"
            )
        return cls(sorted_edges, counts, total)

    @property
    def count(self) -> float:
        """Number of values."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean, exactly; NaN without any."""
        return self.total / self.count if self.count else float("nan")

    @property
    def lower_edges(self) -> FloatArray:
        """The edge below each bucket, shape (B,); 0 below the first."""
        return np.concatenate([[0.0], self.edges[:-1]])

    def quantile(self, share: float) -> tuple[float, float]:
        """The bucket that holds the quantile, as (lower edge, upper edge); NaN without any value."""
        if not self.count:
            return float("nan"), float("nan")
        at = int(np.searchsorted(np.cumsum(self.counts), share * self.count * (1.0 - 1e-12)))
        return float(self.lower_edges[at]), float(self.edges[at])

    def above(self, least: float) -> float:
        """Values surely above `least`: those of buckets that begin there or later."""
        return float(self.counts[self.lower_edges >= least].sum())

    def plus(self, other: Histogram, where: str) -> Histogram:
        """Both together.

        Raises:
            InputError: their edges differ.
        """
        self._refuse_other_edges(other, where)
        return Histogram(self.edges, self.counts + other.counts, self.total + other.total)

    def since(self, earlier: Histogram, where: str) -> Histogram:
        """What was added after `earlier`.

        Raises:
            InputError: their edges differ, or a count fell.
        """
        self._refuse_other_edges(earlier, where)
        added = self.counts - earlier.counts
        if (added < 0).any() or self.total < earlier.total * (1.0 - 1e-12):
            raise InputError(went_backwards(where, earlier.count, self.count))
        return Histogram(self.edges, added, max(0.0, self.total - earlier.total))

    def _refuse_other_edges(self, other: Histogram, where: str) -> None:
        if not np.array_equal(self.edges, other.edges):
            raise InputError(
                f"{where}: the bucket edges differ between engines or scrapes; scrape one server, as it is"
            )


def went_backwards(name: str, before: float, after: float) -> str:
    """The sentence for a counter that fell."""
    return (
        f"{name} went backwards between the two scrapes (from {before:g} to {after:g}): the server was started again "
        "in between, or the scrapes are in the wrong order; take two scrapes of one run, the earlier one first"
    )
