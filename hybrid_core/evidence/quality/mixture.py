"""How a stack mixes its kinds of layer, in the paper's terms."""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """How a stack mixes its kinds of layer: the paper's name for the family, depth, and the 1-based
    indices of the expensive blocks."""

    family: str
    n_layers: int
    expensive: tuple[int, ...]

    @property
    def share(self) -> float:
        """Expensive blocks over all layers, 0 to 1."""
        return len(self.expensive) / self.n_layers

    @property
    def first(self) -> bool:
        """Whether layer 1 is expensive and others are not."""
        return self.share < 1 and 1 in self.expensive

    @property
    def last(self) -> bool:
        """Whether the last layer is expensive and others are not."""
        return self.share < 1 and self.n_layers in self.expensive

    @property
    def cluster(self) -> bool:
        """Whether there are several expensive blocks, all next to one another, and others."""
        return 1 < len(self.expensive) == self.expensive[-1] - self.expensive[0] + 1 < self.n_layers

    @property
    def centre(self) -> float:
        """Mean depth of the expensive blocks; 0 is before the first layer, 0.5 the middle, 1 behind
        the last. 0.5 if there are none."""
        return float(np.mean(self.expensive)) / (self.n_layers + 1) if self.expensive else 0.5


# Letters of a stack -> (the paper's family, its expensive letter). `window`: no global attention at
# all.
_FAMILIES = {
    "A": ("llama", "A"),
    "M": ("mamba", "A"),
    "AM": ("inter", "A"),
    "H": ("intra", "H"),
    "HM": ("intra", "H"),
}
_FAMILIES |= {"AS": ("swa", "A"), "S": ("window", "A")}


def mixture(pattern: str) -> Mixture | None:
    """The mixture of a pattern of letters, or None where the paper trained no such stack."""
    family, letter = _FAMILIES.get("".join(sorted(set(pattern))), ("", ""))
    expensive = tuple(i for i, kind in enumerate(pattern, start=1) if kind == letter)
    return Mixture(family, len(pattern), expensive) if family else None
