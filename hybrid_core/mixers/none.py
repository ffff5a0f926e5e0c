"""No mixer: a layer that is a feed-forward alone. Twin of live/modules/no_mixer.py."""

from typing import ClassVar

from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.sized import SizedCosts, Sizes


class NoMixer(Mixer):
    """A layer that is a feed-forward alone."""

    kind: ClassVar[str] = "none"
    letter: ClassVar[str] = "-"

    def costs(self, d_model: int) -> SizedCosts:
        return SizedCosts(d_model, Sizes())
