"""Every kind of layer in one table, by the type of its mixer's spec: its names, costs, module and
colour. A new mixer is one entry here.

Letters are not here: a letter (placement.py) is how a person writes a layer, and M stands for
Mamba-1 or Mamba-2."""

from importlib import import_module
from typing import Any, NamedTuple

from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.declared import DeclaredMixer
from hybrid_core.mixers.diff_attention import DiffAttentionMixer
from hybrid_core.mixers.diff_mamba2 import DiffMamba2Mixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.gated_memory import GatedMemoryMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.rg_lru import RgLruMixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.short_conv import ShortConvMixer
from hybrid_core.mixers.side_by_side import SideBySideMixer
from hybrid_core.mixers.swa import SwaMixer


class Kind(NamedTuple):
    """One kind of layer. `module` is "package.module:Class", loaded on first use, so that nothing
    here imports torch; None where a kind is costed and not built."""

    name: str
    label: str
    module: str | None
    colour: str

    @property
    def light(self) -> bool:
        """Whether black words have more contrast on the colour than white ones (WCAG 2.2, relative
        luminance)."""
        shares = (int(self.colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (
            share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
            for share in shares
        )
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) ** 2 > 1.05 * 0.05

    def load_module(self) -> type[Any]:
        """The torch class, imported now."""
        assert self.module, f"{self.name} is costed, not built"
        path, _, name = self.module.partition(":")
        loaded: type[Any] = getattr(import_module(path), name)
        return loaded


# Colours: Okabe-Ito, distinguishable with every common colour blindness.
KINDS: dict[type[Mixer], Kind] = {
    AttentionMixer: Kind(
        "attention", "Attention", "hybrid_core.live.modules.attention:Attention", "#D55E00"
    ),
    SwaMixer: Kind(
        "swa", "Sliding window", "hybrid_core.live.modules.swa:SlidingWindowAttention", "#E69F00"
    ),
    Mamba2Mixer: Kind("mamba2", "Mamba-2", "hybrid_core.live.modules.mamba2:Mamba2", "#0072B2"),
    Mamba1Mixer: Kind("mamba1", "Mamba-1", "hybrid_core.live.modules.mamba1:Mamba1", "#56B4E9"),
    IntraMixer: Kind(
        "intra", "Intra-hybrid", "hybrid_core.live.modules.intra:IntraHybrid", "#009E73"
    ),
    DiffAttentionMixer: Kind(
        "diff_attention",
        "Differential attention",
        "hybrid_core.live.modules.diff_attention:DiffAttention",
        "#CC79A7",
    ),
    DiffMamba2Mixer: Kind(
        "diff_mamba2",
        "Differential Mamba-2",
        "hybrid_core.live.modules.diff_mamba2:DiffMamba2",
        "#F0E442",
    ),
    SharedBlockMixer: Kind(
        "shared_block",
        "Shared block and SSM",
        "hybrid_core.live.modules.shared_block:SharedBlock",
        "#8C564B",
    ),
    SideBySideMixer: Kind("side_by_side", "Mixers side by side", None, "#117733"),
    LatentAttentionMixer: Kind("mla", "Latent attention", None, "#B35806"),
    GatedDeltaNetMixer: Kind("gated_deltanet", "Gated DeltaNet", None, "#44AA99"),
    KimiDeltaMixer: Kind("kda", "Kimi Delta Attention", None, "#66C2A5"),
    RgLruMixer: Kind("rg_lru", "RG-LRU", None, "#332288"),
    ShortConvMixer: Kind("short_conv", "Short convolution", None, "#88CCEE"),
    GatedMemoryMixer: Kind("gated_memory", "Gated memory unit", None, "#AAAA00"),
    DeclaredMixer: Kind("declared", "Declared sizes", None, "#999999"),
    NoMixer: Kind(
        "none", "Feed-forward alone", "hybrid_core.live.modules.no_mixer:NoMixer", "#BBBBBB"
    ),
}


def kind_of(mixer: Mixer) -> Kind:
    """The entry of a layer's mixer."""
    return KINDS[type(mixer)]
