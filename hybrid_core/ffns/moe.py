"""Mixture of experts. Twin of live/modules/moe.py."""

from typing import Literal

from pydantic import model_validator

from hybrid_core.ffns.base import Activation
from hybrid_core.validation import Count, Dim, Factor, Frozen, quiet


class MoE(Frozen):
    """Mixture of experts: `n_shared` always on, `top_k` of `n_routed` chosen by a router (sigmoid
    in the paper, Appendix L).

    `d_shared`: width of the shared experts together, unless n_shared * d_expert. `shared_gate`: a
    sigmoid gate on their output. `score`: softmax over all, or over the `top_k` chosen (normalised
    either way by `norm_top_k`). `scale`: of the routed sum. `score_bias`: the balancing bias is a
    parameter. `d_latent`: the routed experts work behind a projection to this width."""

    kind: Literal["moe"] = "moe"
    n_routed: Dim = 8
    top_k: Dim = 1
    n_shared: Count = 1
    d_expert: Dim
    d_shared: Dim | None = quiet(None)
    shared_gate: bool = quiet(False)
    gated: bool = quiet(True)
    activation: Activation | Literal["clamped_swiglu"] = quiet("silu")
    bias: bool = quiet(False)
    score: Literal["sigmoid", "softmax"] = quiet("sigmoid")
    norm_top_k: bool = quiet(False)
    scale: Factor = quiet(1.0)
    score_bias: bool = quiet(False)
    d_latent: Dim | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "MoE":
        if self.top_k > self.n_routed:
            raise ValueError(f"top_k: {self.top_k} - must not exceed n_routed ({self.n_routed})")
        return self

    @property
    def shared_width(self) -> int:
        """Width of the shared experts together; 0 where there are none."""
        return self.d_shared or self.n_shared * self.d_expert
