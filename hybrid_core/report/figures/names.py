"""Where names stand on a chart: beside what they name, on no line, no point and no other name. All
lengths are pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HEIGHT = 15  # of a line of words
LETTER = 6.2  # of a letter on average
SIGN = 14  # of the coloured square before a name
GAP = 5  # between a point and its name
# Where a name may stand about a point: which of its sides is at the point (as plotly's xanchor),
# and above (1), beside (0) or below (-1).
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
# The name's left side, in widths from the point.
_LEFT = {"left": 0.0, "center": -0.5, "right": -1.0}
# What plotly calls the sides of a point where its text stands.
_TEXT_AT = {"left": "right", "center": "center", "right": "left"}
_HEIGHT_AT = ("middle", "top", "bottom")
_TOWARDS = {"left": 1.0, "center": 0.0, "right": -1.0}
# Samples of a line from one point to the next, so that none of it slips through a name.
BETWEEN = 10


class Spot(NamedTuple):
    """At which point of a line its name stands, and on which side of it."""

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
        """In plotly's words for the text of a point, which say where the text is, not which of its
        sides is at the point."""
        return f"{_HEIGHT_AT[self.above]} {_TEXT_AT[self.xanchor]}"


def place(
    lines: Sequence[np.ndarray], widths: Sequence[float], room: tuple[float, float]
) -> list[Spot]:
    """A spot for the name of each of the first lines: where it covers least, and of such spots the
    one nearest to the line's end.

    `lines`: (points, 2) from the lower left corner, unknown ones NaN; lines without a width are
    only kept free. `room`: width and height."""
    drawn = np.concatenate([_dense(line) for line in lines])
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    taken = np.empty((0, 4))
    spots = []
    for line, width in zip(lines, widths, strict=False):
        known = np.flatnonzero(np.isfinite(line).all(axis=1))[::-1]
        boxes = (np.tile(line[known], 2)[:, None] + _about(width)).reshape(-1, 4)
        outside = (boxes[:, :2] < -GAP).any(axis=1)
        outside |= (boxes[:, 2:] > np.asarray(room) + 2 * GAP).any(axis=1)
        on_lines = _overlaps(boxes, np.tile(drawn, 2), near=2)
        on_names = _overlaps(boxes, taken)
        covered = on_lines + 100 * on_names + 1000 * outside
        best = int(covered.argmin())
        spots.append(Spot(int(known[best // len(SIDES)]), *SIDES[best % len(SIDES)]))
        taken = np.vstack([taken, boxes[best]])
    return spots


def width(name: str, sign: float = SIGN) -> float:
    """Of a name with its square."""
    return sign + LETTER * len(name)


def _dense(line: np.ndarray) -> np.ndarray:
    """A line's points and what lies between them."""
    points = np.arange(len(line))
    samples = np.linspace(0, len(line) - 1, BETWEEN * (len(line) - 1) + 1)
    xs = np.interp(samples, points, line[:, 0])
    ys = np.interp(samples, points, line[:, 1])
    return np.stack([xs, ys], axis=1)


def _about(width: float) -> np.ndarray:
    """(sides, 4): left, bottom, right and top of a name on each side of a point, from the point."""
    boxes = []
    for side in SIDES:
        spot = Spot(0, *side)
        left = spot.xshift + _LEFT[spot.xanchor] * width
        bottom = spot.yshift - HEIGHT / 2
        boxes.append((left, bottom, left + width, bottom + HEIGHT))
    return np.array(boxes)


def _overlaps(boxes: np.ndarray, others: np.ndarray, near: float = 0) -> np.ndarray:
    """How many of the others, boxes or points written as such, each box lies on, or as near to
    it."""
    left, bottom, right, top = boxes.T[..., None]
    lying = (left - near < others[:, 2]) & (right + near > others[:, 0])
    lying &= (bottom - near < others[:, 3]) & (top + near > others[:, 1])
    return np.asarray(lying.sum(axis=1))
