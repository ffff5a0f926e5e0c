"""Scale factors from a design to its proxy, and the rounding used for every size.

Channel counts shrink with the width of the model and token counts with the length of its contexts.
States shrink with the square root of that length. Everything else stays the same: kinds of layer,
fusion axes, head ratios, numbers of experts, convolution widths."""

from math import sqrt
from typing import NamedTuple


class Factors(NamedTuple):
    """Ratios of proxy to design: of d_model (`width`), and of the training contexts (`length`)."""

    width: float
    length: float

    @property
    def state(self) -> float:
        """The factor for d_state. A state stores the context, which shrinks with the length, and
        needles, which do not shrink."""
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
