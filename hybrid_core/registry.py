"""Every kind of layer in one table: its letter, its names, its costs, its module, its colour. A new mixer is one entry here."""

from importlib import import_module
from typing import Any, NamedTuple

from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.intra import IntraCosts
from hybrid_core.costs.mamba2 import Mamba2Costs
from hybrid_core.costs.swa import SwaCosts


class Kind(NamedTuple):
    """One kind of layer. `module` is "package.module:Class", loaded on first use, so that nothing here imports torch."""

    name: str
    label: str
    costs: type[Any]
    module: str
    colour: str

    def load_module(self) -> type[Any]:
        """The torch class, imported now."""
        path, _, name = self.module.partition(":")
        loaded: type[Any] = getattr(import_module(path), name)
        return loaded


# Colours: Okabe-Ito, distinguishable with every common colour blindness.
KINDS: dict[str, Kind] = {
    "A": Kind("attention", "Attention", AttentionCosts, "hybrid_core.modules.attention:Attention", "#D55E00"),
    "S": Kind("swa", "Sliding window", SwaCosts, "hybrid_core.modules.swa:SlidingWindowAttention", "#E69F00"),
    "M": Kind("mamba2", "Mamba-2", Mamba2Costs, "hybrid_core.modules.mamba2:Mamba2", "#0072B2"),
    "H": Kind("intra", "Intra-hybrid", IntraCosts, "hybrid_core.modules.intra:IntraHybrid", "#009E73"),
}
