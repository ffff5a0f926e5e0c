"""Where the names on a chart go: next to what they name, and clear of lines, points and other
names. All lengths are pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HEIGHT = 15  # of a line of text
LETTER = 6.2  # average width of a letter
SIGN = 14  # width of the coloured square before a name
GAP = 5  # between a point and its name
# Where a name may go around a point: which of its sides is at the point (as plotly's xanchor), and
# whether it is above (1), level with (0) or below (-1) the point.
SIDES = [
    ("right", 1),
    ("center", 1),
    ("left", 1),
    ("right", -1),
    ("center", -1),
    ("left", -1),
    ("left", 0),
    ("right", 0),
]
# The following are keyed by the side of the name that is at the point. From the point to the name's
# left side, in widths of the name.
_LEFT = {
    "left": 0.0,
    "center": -0.5,
    "right": -1.0,
}
# Plotly's word for where the text is.
_TEXT_AT = {
    "left": "right",
    "center": "center",
    "right": "left",
}
# To the right (1) or to the left (-1) of the point.
_TOWARDS = {
    "left": 1.0,
    "center": 0.0,
    "right": -1.0,
}
_HEIGHT_AT = ("middle", "top", "bottom")  # plotly's words for level, above and below
# Samples of a line from one point to the next, so that no part of it crosses a name unnoticed.
BETWEEN = 10


class Spot(NamedTuple):
    """The point of a line where its name goes, and the side."""

    point: int
    xanchor: str
    above: int

    @property
    def xshift(self) -> float:
        """From the point to the anchored side."""
        if self.above:
            return GAP * _TOWARDS[self.xanchor]
        return 2 * GAP * _TOWARDS[self.xanchor]

    @property
    def yshift(self) -> float:
        """From the point to the middle of the name."""
        return self.above * (GAP + HEIGHT / 2)

    @property
    def textposition(self) -> str:
        """The same in plotly's terms for the text of a point. They say where the text is, not which
        of its sides is at the point."""
        return f"{_HEIGHT_AT[self.above]} {_TEXT_AT[self.xanchor]}"


def place(
    lines: Sequence[np.ndarray],
    widths: Sequence[float],
    room: tuple[float, float],
) -> list[Spot]:
    """A spot for the name of each line that has a width, first to last. It is the spot where the
    name covers least, and on a tie the one nearest to the line's end.

    `lines`: (points, 2) from the lower left corner, NaN where unknown. Lines beyond the last width
    get no name, but no name may cover them. `room`: width and height."""
    drawn = np.concatenate([_dense(line) for line in lines])
    drawn = drawn[_is_known(drawn)]
    taken = np.empty((0, 4))
    spots = []
    for line, width in zip(lines, widths, strict=False):
        from_end = np.flatnonzero(_is_known(line))[::-1]
        boxes = _boxes(line[from_end], width)
        on_lines = _overlaps(boxes, np.tile(drawn, 2), near=2)
        on_names = _overlaps(boxes, taken)
        outside = _is_outside(boxes, room)
        covered = on_lines + 100 * on_names + 1000 * outside
        best = int(covered.argmin())
        point, side = divmod(best, len(SIDES))
        spots.append(Spot(int(from_end[point]), *SIDES[side]))
        taken = np.vstack([taken, boxes[best]])
    return spots


def _is_known(points: np.ndarray) -> np.ndarray:
    """(points,): whether both coordinates are known."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _boxes(points: np.ndarray, width: float) -> np.ndarray:
    """(points * sides, 4): left, bottom, right and top of a name at each side of each point."""
    corners = np.tile(points, 2)[:, None]  # each point as both corners of a box without size
    return np.asarray((corners + _about(width)).reshape(-1, 4))


def _is_outside(boxes: np.ndarray, room: tuple[float, float]) -> np.ndarray:
    """(boxes,): whether a box leaves the plot by more than the margins allow."""
    lower_left = boxes[:, :2]
    upper_right = boxes[:, 2:]
    below = (lower_left < -GAP).any(axis=1)
    beyond = (upper_right > np.asarray(room) + 2 * GAP).any(axis=1)
    return np.asarray(below | beyond)


def width(name: str, sign: float = SIGN) -> float:
    """The width of a name with its square."""
    return sign + LETTER * len(name)


def _dense(line: np.ndarray) -> np.ndarray:
    """(samples, 2): a line's points and samples between them."""
    points = np.arange(len(line))
    last = len(line) - 1
    samples = np.linspace(0, last, BETWEEN * last + 1)
    xs = np.interp(samples, points, line[:, 0])
    ys = np.interp(samples, points, line[:, 1])
    return np.stack([xs, ys], axis=1)


def _about(width: float) -> np.ndarray:
    """(sides, 4): left, bottom, right and top of a name on each side of a point, measured from the
    point."""
    boxes = []
    for side in SIDES:
        spot = Spot(0, *side)
        left = spot.xshift + _LEFT[spot.xanchor] * width
        bottom = spot.yshift - HEIGHT / 2
        boxes.append((left, bottom, left + width, bottom + HEIGHT))
    return np.array(boxes)


def _overlaps(boxes: np.ndarray, others: np.ndarray, near: float = 0) -> np.ndarray:
    """(boxes,): how many of the others each box covers, or comes nearer to than `near`. A point
    among the others is a box without size."""
    left, bottom, right, top = boxes.T[..., None]
    other_left, other_bottom, other_right, other_top = others.T
    covers = left - near < other_right
    covers &= right + near > other_left
    covers &= bottom - near < other_top
    covers &= top + near > other_bottom
    return np.asarray(covers.sum(axis=1))
