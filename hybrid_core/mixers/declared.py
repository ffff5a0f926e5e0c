"""A mixer known by its sizes alone. Costed, not built."""

from typing import Annotated, ClassVar

from pydantic import Field

from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Count, Dim, Size


class DeclaredMixer(Mixer):
    """A mixer known by its sizes alone, for what has no formula here yet.

    Parameters: `matrix_params` in products with every token, `other_params` in none, and a
    depthwise convolution of `conv_channels` over `d_conv` inputs. Cache in elements of one
    sequence: `state`, the convolution's inputs, `kv_per_token`. FLOPs beside the products:
    `flops_per_token`, and `flops_per_pair` of positions."""

    kind: ClassVar[str] = "declared"
    letter: ClassVar[str] = "R"
    name: Annotated[str, Field(min_length=1, max_length=60)]
    matrix_params: Size = 0
    other_params: Size = 0
    state: Size = 0
    conv_channels: Count = 0
    d_conv: Dim = 1
    kv_per_token: Count = 0
    flops_per_token: Size = 0
    flops_per_pair: Size = 0

    def costs(self, d_model: int) -> SizedCosts:
        return SizedCosts(
            d_model,
            Sizes(
                matrices=(("matrices", Matrix(1, self.matrix_params)),)
                if self.matrix_params
                else (),
                vectors=self.other_params,
                conv_channels=self.conv_channels,
                d_conv=self.d_conv,
                state=self.state,
                kv=self.kv_per_token,
                scan_flops=self.flops_per_token,
                pair_flops=self.flops_per_pair,
            ),
        )
