"""Complete mixers that read the same input. Costed, not built."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Self

from pydantic import Field

from hybrid_core.factors import Factors
from hybrid_core.mixers.attention import ATTENTION_MATRICES
from hybrid_core.mixers.base import MIXER, Entry, Mixer
from hybrid_core.mixers.mamba1 import MAMBA1_MATRICES
from hybrid_core.terms import CacheTensor, MixerCosts, Num, Terms, widest
from hybrid_core.workload import Workload


class SideBySideMixer(Mixer):
    """Complete mixers that read the same input; their outputs are added."""

    entry: ClassVar[Entry] = Entry(
        name="side_by_side",
        meaning="Complete mixers that read the same input; their outputs are added.",
        label="Mixers side by side",
        letter="P",
        colour="#117733",
        matrices=(*ATTENTION_MATRICES, *MAMBA1_MATRICES[:-1], "matrices"),
    )
    branches: tuple[Annotated[Mixer, *MIXER], ...] = Field(strict=False)

    def costs(self, d_model: int) -> "SideBySideCosts":
        return SideBySideCosts(self, d_model)

    def shrunk(self, factors: Factors) -> Self:
        small = [branch.shrunk(factors) for branch in self.branches]
        return self.changed(branches=tuple(small))


@dataclass(frozen=True)
class SideBySideCosts:
    """Sums over the branches."""

    spec: SideBySideMixer
    d_model: int

    @cached_property
    def branches(self) -> list[MixerCosts]:
        """The closed forms of each branch."""
        return [branch.costs(self.d_model) for branch in self.spec.branches]

    def params(self) -> dict[str, int]:
        """Parameters by part. Parts of the same name are added."""
        added: dict[str, int] = {}
        for branch in self.branches:
            for part, n in branch.params().items():
                added[part] = added.get(part, 0) + n
        return added

    def forward_flops(self, seq_len: Num) -> Terms:
        return [term for branch in self.branches for term in branch.forward_flops(seq_len)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [term for branch in self.branches for term in branch.decode_flops(context_len)]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return [tensor for branch in self.branches for tensor in branch.cache(context_len)]

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return [tensor for branch in self.branches for tensor in branch.reads(context_len)]

    def paper_train_flops(self, context_len: Num) -> Num:
        return sum(branch.paper_train_flops(context_len) for branch in self.branches)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return sum(branch.paper_cache_bytes(context_len) for branch in self.branches)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        return widest(*(branch.workspace(seq_len, workload) for branch in self.branches))
