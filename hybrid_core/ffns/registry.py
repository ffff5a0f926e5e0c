"""Every kind of feed-forward."""

from typing import Annotated

from pydantic import Field

from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU

AnyFfn = SwiGLU | Mlp | MoE


Ffn = Annotated[AnyFfn, Field(discriminator="kind")]
