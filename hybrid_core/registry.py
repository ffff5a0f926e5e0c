"""Every kind of layer in one table, by the type of its mixer's spec: its names, costs, module and colour. A new mixer is one entry here.

Letters are not here: a letter (placement.py) is how a person writes a layer, and M stands for Mamba-1 or Mamba-2.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.composite import SharedBlockCosts, SideBySideCosts
from hybrid_core.costs.diff_attention import DiffAttentionCosts
from hybrid_core.costs.diff_mamba2 import DiffMamba2Costs
from hybrid_core.costs.intra import IntraCosts
from hybrid_core.costs.mamba1 import Mamba1Costs
from hybrid_core.costs.mamba2 import Mamba2Costs
from hybrid_core.costs.sized import sized_costs
from hybrid_core.costs.swa import SwaCosts
from hybrid_core.costs.terms import MixerCosts
from hybrid_core.spec import (
    AttentionMixer,
    DeclaredMixer,
    DiffAttentionMixer,
    DiffMamba2Mixer,
    GatedDeltaNetMixer,
    GatedMemoryMixer,
    IntraMixer,
    KimiDeltaMixer,
    LatentAttentionMixer,
    Mamba1Mixer,
    Mamba2Mixer,
    Mixer,
    NoMixer,
    RgLruMixer,
    SharedBlockMixer,
    ShortConvMixer,
    SideBySideMixer,
    SwaMixer,
)


class Kind(NamedTuple):
    """One kind of layer. `module` is "package.module:Class", loaded on first use, so that nothing here imports torch; None where a
    kind is costed and not built."""

    name: str
    label: str
    costs: Callable[[Any, int], Any]
    module: str | None
    colour: str

    @property
    def light(self) -> bool:
        """Whether black words have more contrast on the colour than white ones (WCAG 2.2, relative luminance)."""
        shares = (int(self.colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) ** 2 > 1.05 * 0.05

    def load_module(self) -> type[Any]:
        """The torch class, imported now."""
        assert self.module, f"{self.name} is costed, not built"
        path, _, name = self.module.partition(":")
        loaded: type[Any] = getattr(import_module(path), name)
        return loaded


def costs_of(mixer: Mixer, d_model: int) -> MixerCosts:
    """The closed forms of one mixer."""
    costs: MixerCosts = KINDS[type(mixer)].costs(mixer, d_model)
    return costs


# Colours: Okabe-Ito, distinguishable with every common colour blindness.
KINDS: dict[type[Mixer], Kind] = {
    AttentionMixer: Kind("attention", "Attention", AttentionCosts, "hybrid_core.modules.attention:Attention", "#D55E00"),
    SwaMixer: Kind("swa", "Sliding window", SwaCosts, "hybrid_core.modules.swa:SlidingWindowAttention", "#E69F00"),
    Mamba2Mixer: Kind("mamba2", "Mamba-2", Mamba2Costs, "hybrid_core.modules.mamba2:Mamba2", "#0072B2"),
    Mamba1Mixer: Kind("mamba1", "Mamba-1", Mamba1Costs, "hybrid_core.modules.mamba1:Mamba1", "#56B4E9"),
    IntraMixer: Kind("intra", "Intra-hybrid", IntraCosts, "hybrid_core.modules.intra:IntraHybrid", "#009E73"),
    DiffAttentionMixer: Kind(
        "diff_attention", "Differential attention", DiffAttentionCosts, "hybrid_core.modules.diff_attention:DiffAttention", "#CC79A7"
    ),
    DiffMamba2Mixer: Kind("diff_mamba2", "Differential Mamba-2", DiffMamba2Costs, "hybrid_core.modules.diff_mamba2:DiffMamba2", "#F0E442"),
    SharedBlockMixer: Kind(
        "shared_block", "Shared block and SSM", SharedBlockCosts, "hybrid_core.modules.shared_block:SharedBlock", "#8C564B"
    ),
    SideBySideMixer: Kind("side_by_side", "Mixers side by side", partial(SideBySideCosts, of=costs_of), None, "#117733"),
    LatentAttentionMixer: Kind("mla", "Latent attention", sized_costs, None, "#B35806"),
    GatedDeltaNetMixer: Kind("gated_deltanet", "Gated DeltaNet", sized_costs, None, "#44AA99"),
    KimiDeltaMixer: Kind("kda", "Kimi Delta Attention", sized_costs, None, "#66C2A5"),
    RgLruMixer: Kind("rg_lru", "RG-LRU", sized_costs, None, "#332288"),
    ShortConvMixer: Kind("short_conv", "Short convolution", sized_costs, None, "#88CCEE"),
    GatedMemoryMixer: Kind("gated_memory", "Gated memory unit", sized_costs, None, "#AAAA00"),
    DeclaredMixer: Kind("declared", "Declared sizes", sized_costs, None, "#999999"),
    NoMixer: Kind("none", "Feed-forward alone", sized_costs, "hybrid_core.modules.no_mixer:NoMixer", "#BBBBBB"),
}


def kind_of(mixer: Mixer) -> Kind:
    """The entry of a layer's mixer."""
    return KINDS[type(mixer)]
