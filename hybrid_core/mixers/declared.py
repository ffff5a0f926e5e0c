"""A mixer known only by its sizes. Costed, not built."""

from typing import Annotated, ClassVar, Self

from pydantic import Field

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Count, Dim, Size


class DeclaredMixer(Mixer):
    """A mixer described only by its sizes, for kinds that have no formula here yet.

    Parameters: `matrix_params` in matrices that every token is multiplied with, `other_params`, and
    a depthwise convolution of `conv_channels` over `d_conv` inputs. Cache, in elements per
    sequence: `state`, the convolution's inputs, and `kv_per_token`. FLOPs in addition to those of
    the matrices: `flops_per_token`, and `flops_per_pair` per pair of positions."""

    entry: ClassVar[Entry] = Entry(
        name="declared",
        meaning="A mixer known only by its sizes, for kinds without a formula here yet.",
        label="Declared sizes",
        letter="X",
        colour="#999999",
        matrices=("matrices",),
    )
    name: Annotated[str, Field(min_length=1, max_length=60)]
    matrix_params: Size = 0
    other_params: Size = 0
    state: Size = 0
    conv_channels: Count = 0
    d_conv: Dim = 1
    kv_per_token: Count = 0
    flops_per_token: Size = 0
    flops_per_pair: Size = 0

    def shrunk(self, factors: Factors) -> Self:
        """Each size shrinks as sizes of its type do. A matrix shrinks along both of its
        dimensions."""
        by_factor = (
            (factors.width**2, ("matrix_params",)),
            (factors.width, ("other_params", "conv_channels", "kv_per_token", "flops_per_pair")),
            (factors.width * factors.state, ("state", "flops_per_token")),
        )
        changes = {}
        for factor, keys in by_factor:
            for key in keys:
                value = getattr(self, key)
                changes[key] = scaled(value, factor) if value else 0
        return self.changed(**changes)

    def costs(self, d_model: int) -> SizedCosts:
        matrices: tuple[tuple[str, Matrix], ...] = ()
        if self.matrix_params:
            matrices = (("matrices", Matrix(1, self.matrix_params)),)
        sizes = Sizes(
            matrices=matrices,
            vectors=self.other_params,
            conv_channels=self.conv_channels,
            d_conv=self.d_conv,
            state=self.state,
            kv=self.kv_per_token,
            scan_flops=self.flops_per_token,
            pair_flops=self.flops_per_pair,
        )
        return SizedCosts(d_model, sizes)
