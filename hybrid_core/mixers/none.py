"""No mixer: a layer that is only a feed-forward. Twin of live/modules/no_mixer.py."""

from typing import ClassVar, Self

from hybrid_core.factors import Factors
from hybrid_core.mixers.base import Entry, Mixer, Sections
from hybrid_core.mixers.sized import SizedCosts, Sizes


class NoMixer(Mixer):
    """A layer that is only a feed-forward."""

    entry: ClassVar[Entry] = Entry(
        name="none",
        meaning="A layer without a mixer.",
        label="Feed-forward alone",
        letter="-",
        colour="#BBBBBB",
        module="hybrid_core.live.modules.no_mixer:NoMixer",
        sections=(),
        symbols={"megatron": ""},
    )

    @classmethod
    def from_sections(cls, sections: Sections) -> Mixer:
        return cls()

    def shrunk(self, factors: Factors) -> Self:
        """Unchanged: it has no width or length."""
        return self

    def costs(self, d_model: int) -> SizedCosts:
        return SizedCosts(d_model, Sizes())
