"""How a stack mixes its kinds of layer, in the paper's terms."""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """How a stack mixes its kinds of layer: the paper's name for the family, depth, and the 1-based
    indices of the expensive layers (attention, or intra-hybrid blocks)."""

    family: str
    n_layers: int
    expensive: tuple[int, ...]

    @property
    def share(self) -> float:
        """Expensive layers over all layers, 0 to 1."""
        return len(self.expensive) / self.n_layers

    @property
    def is_mixed(self) -> bool:
        """Whether some layers are expensive and some are not."""
        return 0 < self.share < 1

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
        """Whether several expensive layers all sit next to one another, and there are other
        layers."""
        if not 1 < len(self.expensive) < self.n_layers:
            return False
        return len(self.expensive) == self.expensive[-1] - self.expensive[0] + 1

    @property
    def centre(self) -> float:
        """Mean depth of the expensive layers: 0 is before the first layer, 0.5 the middle, 1 after
        the last. 0.5 if there are none."""
        if not self.expensive:
            return 0.5
        return float(np.mean(self.expensive)) / (self.n_layers + 1)


# letters of a stack -> (the paper's family, its expensive letter)
_FAMILIES = {
    "A": ("llama", "A"),
    "M": ("mamba", "A"),
    "AM": ("inter", "A"),
    "H": ("intra", "H"),
    "HM": ("intra", "H"),
    "AS": ("swa", "A"),
    "S": ("window", "A"),  # no global attention at all
}


def mixture(pattern: str) -> Mixture | None:
    """The mixture of a pattern of letters, or None if the paper trained no such stack."""
    letters = "".join(sorted(set(pattern)))
    if letters not in _FAMILIES:
        return None
    family, letter = _FAMILIES[letters]
    expensive = tuple(i for i, kind in enumerate(pattern, start=1) if kind == letter)
    return Mixture(family, len(pattern), expensive)
