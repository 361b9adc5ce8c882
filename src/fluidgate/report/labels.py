"""Names beside marks, none over another: the nearest free place for each, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import hypot

from fluidgate.report.html import Html, tag

CHARACTER, LINE = 6.9, 15.0
"""Pixels of a character and of a line at 12 px: no common sans-serif font is wider on average."""
MARK = 7.5
"""Half the room that a mark takes."""
ROW = 16.0
"""Pixels of a line of `below`."""
ADJACENT = 14.0
"""A name whose nearest edge is farther from its mark gets a leader."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of_segment(cls, start: Point, end: Point, room: float = 1.0) -> Box:
        """The room of a straight line, horizontal or vertical, with as many pixels above and below it."""
        (left, right), (top, bottom) = sorted((start[0], end[0])), sorted((start[1], end[1]))
        return cls(left - 1, top - room, right + 1, bottom + room)

    def overlaps(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies within."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )

    def nearest(self, point: Point) -> Point:
        """The point of the box that is nearest to another."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)

    def crossed_by(self, start: Point, end: Point) -> bool:
        """Whether a segment runs through it (sampled every two pixels)."""
        steps = max(1, round(hypot(end[0] - start[0], end[1] - start[1]) / 2))
        shares = (k / steps for k in range(steps + 1))
        return any(
            self.left < start[0] + s * (end[0] - start[0]) < self.right
            and self.top < start[1] + s * (end[1] - start[1]) < self.bottom
            for s in shares
        )


@dataclass(frozen=True)
class Label:
    """A name in its place.

    Attributes:
        x: where the text begins, ends or has its middle, as `anchor` says: on the side of the mark.
        leader: the segment from its mark, if it is not beside it.
    """

    text: str
    box: Box
    x: float
    anchor: str
    leader: tuple[Point, Point] | None


def around(point: Point) -> Box:
    """The room that a mark takes."""
    return Box(point[0] - MARK, point[1] - MARK, point[0] + MARK, point[1] + MARK)


def place(marks: Sequence[Point], texts: Sequence[str], frame: Box, lines: Sequence[Box] = ()) -> list[Label | None]:
    """A place for each name inside the frame, over no mark, no other name and no leader; None where there is none.

    Args:
        lines: what names are kept off while there is room elsewhere.
    """
    taken = [around(mark) for mark in marks]
    leaders: list[tuple[Point, Point]] = []
    found: list[Label | None] = []
    for mark, text in zip(marks, texts, strict=True):
        free = [
            label
            for label in (_label(mark, text, box) for box in _candidates(mark, CHARACTER * len(text), frame))
            if _is_free(label, mark, taken, leaders)
        ]
        label = next((label for label in free if not any(map(label.box.overlaps, lines))), free[0] if free else None)
        found.append(label)
        if label is not None:
            taken.append(label.box)
            leaders += [label.leader] if label.leader else []
    return found


def written(labels: Sequence[Label | None]) -> list[Html]:
    """Leaders, then names, each against the side of its room that is next to the mark."""
    placed = [label for label in labels if label is not None]
    return [*(_leader(*label.leader) for label in placed if label.leader), *map(_name, placed)]


def below(mark: Callable[[float, float], Html], name: str, left: float, bottom: float, row: int) -> Html:
    """A mark with its name in a line below the plot, whose left edge and lower end are given."""
    y = bottom + ROW * row
    return tag("g", mark(left + 6, y), tag("text", name, x=left + 18, y=y + 4))


def _name(label: Label) -> Html:
    return tag("text", label.text, x=label.x, y=label.box.bottom - 4, text_anchor=label.anchor, class_="halo name")


def _leader(start: Point, end: Point) -> Html:
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_="leader")


def _is_free(label: Label, mark: Point, taken: Sequence[Box], leaders: Sequence[tuple[Point, Point]]) -> bool:
    if any(map(label.box.overlaps, taken)) or any(label.box.crossed_by(*leader) for leader in leaders):
        return False
    beyond = [box for box in taken if box.nearest(mark) != mark]  # neighbours that the mark lies in are left anyway
    return label.leader is None or not any(box.crossed_by(*label.leader) for box in beyond)


def _label(mark: Point, text: str, box: Box) -> Label:
    end = box.nearest(mark)
    near = hypot(end[0] - mark[0], end[1] - mark[1]) <= ADJACENT
    if box.left >= mark[0]:
        x, anchor = box.left, "start"
    elif box.right <= mark[0]:
        x, anchor = box.right, "end"
    else:
        x, anchor = (box.left + box.right) / 2, "middle"
    return Label(text, box, x, anchor, None if near else (mark, end))


def _candidates(mark: Point, width: float, frame: Box) -> Iterator[Box]:
    """Right, left, above and below the mark, then all over the frame, the nearest first."""
    x, y = mark
    gap = MARK + 2
    corners = [
        (x + gap, y - LINE / 2),
        (x - gap - width, y - LINE / 2),
        (x - width / 2, y - gap - LINE),
        (x - width / 2, y + gap),
    ]
    rows = range(int((frame.bottom - frame.top) / LINE))
    columns = range(int((frame.right - frame.left - width) / 8) + 1)
    grid = [(frame.left + 8 * column, frame.top + LINE * row) for row in rows for column in columns]

    def distance(corner: Point) -> float:
        box = Box(*corner, corner[0] + width, corner[1] + LINE)
        end = box.nearest(mark)
        return hypot(end[0] - x, end[1] - y)

    for left, top in [*corners, *sorted(grid, key=distance)]:
        box = Box(left, top, left + width, top + LINE)
        if frame.holds(box):
            yield box
