"""By how much a proxy is smaller than its design, and the rounding that every size shares.

A number of channels shrinks with the width of the model, a number of tokens with the length of its
contexts, a state with the square root of that length. Everything else stays: kinds, axes of fusion,
ratios of heads, numbers of experts, widths of convolutions."""

from math import sqrt
from typing import NamedTuple


class Factors(NamedTuple):
    """The proxy's size over the design's: of d_model (`width`), and of the contexts that each is
    trained on (`length`)."""

    width: float
    length: float

    @property
    def state(self) -> float:
        """Of d_state. A state keeps a context, which shrinks with the length, and needles, which do
        not."""
        return sqrt(self.length)


def scaled(
    value: float,
    factor: float,
    multiple: int = 1,
    least: int = 1,
) -> int:
    """`value` times `factor`, rounded to the nearest multiple; never below `least` or one
    multiple."""
    rounded = round(value * factor / multiple) * multiple
    return max(least, multiple, rounded)
