"""Every kind of feed-forward."""

from typing import Annotated

from pydantic import Field

from hybrid_core.ffns.base import FfnCosts, NoFfnCosts
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU

AnyFfn = SwiGLU | Mlp | MoE
Ffn = Annotated[AnyFfn, Field(discriminator="kind")]


def ffn_costs(ffn: AnyFfn | None, d_model: int) -> FfnCosts:
    """The closed forms of a layer's feed-forward; all zero if it has none."""
    return NoFfnCosts() if ffn is None else ffn.costs(d_model)
