"""Every kind of mixer, one line each. A new kind needs its own file and one line here."""

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

# In the order of legends and figures. The first colours are Okabe and Ito's, which colour-blind
# readers can tell apart.
MIXERS: tuple[type[Mixer], ...] = (
    AttentionMixer,
    SwaMixer,
    Mamba2Mixer,
    Mamba1Mixer,
    IntraMixer,
    DiffAttentionMixer,
    DiffMamba2Mixer,
    SharedBlockMixer,
    SideBySideMixer,
    LatentAttentionMixer,
    GatedDeltaNetMixer,
    KimiDeltaMixer,
    RgLruMixer,
    ShortConvMixer,
    GatedMemoryMixer,
    DeclaredMixer,
    NoMixer,
)

# The kinds that a pattern may use without an entry under `mixers`, by their letter.
WRITTEN: dict[str, type[Mixer]] = {
    kind.entry.letter: kind for kind in MIXERS if kind.entry.sections is not None
}


def composable(d_model: int) -> dict[str, Mixer]:
    """The layers other than WRITTEN kinds that Compose offers for a model of width `d_model`, by
    the letter of their kind."""
    found = {}
    for kind in MIXERS:
        usual = kind.usual(d_model) if kind.entry.module else None
        if usual is not None:
            found[kind.entry.letter] = usual
    return found
