"""How a stack mixes its kinds of layer, in the paper's terms."""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """How a stack mixes its kinds of layer: the paper's name for the family, depth, and the 1-based
    indices of the layers with attention (attention layers or intra-hybrid blocks)."""

    family: str
    n_layers: int
    with_attention: tuple[int, ...]

    @property
    def share(self) -> float:
        """Expensive layers over all layers, 0 to 1."""
        return len(self.with_attention) / self.n_layers

    @property
    def is_mixed(self) -> bool:
        """Whether some layers have attention and some do not."""
        return 0 < self.share < 1

    @property
    def first(self) -> bool:
        """Whether layer 1 has attention and others do not."""
        return self.share < 1 and 1 in self.with_attention

    @property
    def last(self) -> bool:
        """Whether the last layer has attention and others do not."""
        return self.share < 1 and self.n_layers in self.with_attention

    @property
    def cluster(self) -> bool:
        """Whether several layers with attention all sit next to one another, and there are other
        layers."""
        if not 1 < len(self.with_attention) < self.n_layers:
            return False
        return len(self.with_attention) == self.with_attention[-1] - self.with_attention[0] + 1

    @property
    def centre(self) -> float:
        """Mean depth of the layers with attention: 0 is before the first layer, 0.5 the middle,
        1 after the last. 0.5 if there are none."""
        if not self.with_attention:
            return 0.5
        return float(np.mean(self.with_attention)) / (self.n_layers + 1)


# letters of a stack -> (the paper's family, its letter with attention)
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
    with_attention = tuple(i for i, kind in enumerate(pattern, start=1) if kind == letter)
    return Mixture(family, len(pattern), with_attention)
