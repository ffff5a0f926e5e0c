"""Mixture of experts. Twin of live/modules/moe.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hybrid_core.factors import Factors, scaled
from hybrid_core.ffns.base import (
    Activation,
    Entry,
    FeedForward,
    FfnCosts,
    Sizes,
    gated_workspace,
    in_and_out,
    n_bias_params,
    n_matrix_params,
    plain_workspace,
)
from hybrid_core.terms import Num, Terms, product
from hybrid_core.validation import Count, Dim, Factor, quiet


class MoE(FeedForward):
    """Mixture of experts: `n_shared` always on, `top_k` of `n_routed` chosen by a router (sigmoid
    in the paper, Appendix L).

    `d_shared`: width of the shared experts together, unless n_shared * d_expert. `shared_gate`: a
    sigmoid gate on their output. `score`: softmax over all, or over the `top_k` chosen (normalised
    either way by `norm_top_k`). `scale`: of the routed sum. `score_bias`: the balancing bias is a
    parameter. `d_latent`: the routed experts work behind a projection to this width."""

    entry: ClassVar[Entry] = Entry(
        label="MoE",
        module="hybrid_core.live.modules.moe:MixtureOfExperts",
        built=frozenset(
            {"d_shared", "score", "norm_top_k", "scale", "gated", "activation", "d_latent"}
        ),
    )
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

    def costs(self, d_model: int) -> "MoECosts":
        return MoECosts(self, d_model)

    def unbuilt(self, name: str) -> Iterator[str]:
        if self.activation == "clamped_swiglu":
            yield f"{name}.activation: {self.activation}"

    def shrunk(self, factors: Factors) -> Self:
        """Narrower experts, as many of them."""
        changes = {}
        for key in ("d_expert", "d_shared", "d_latent"):
            width = getattr(self, key)
            changes[key] = None if width is None else scaled(width, factors.width, 8)
        return self.changed(**changes)


@dataclass(frozen=True)
class MoECosts(FfnCosts):
    """A router, shared experts, and routed experts of which a token uses `top_k`."""

    spec: MoE
    d_model: int

    @property
    def _expert_input(self) -> int:
        """Width that a routed expert reads."""
        return self.spec.d_latent or self.d_model

    def _sizes(self) -> Sizes:
        """The paper's balancing bias is a buffer, not a parameter, unless `score_bias` makes it
        one."""
        s = self.spec
        width = self._expert_input
        router = self.d_model * s.n_routed
        shared = n_matrix_params(self.d_model, s.shared_width, s.gated)
        shared_gate = self.d_model if s.shared_gate else 0
        latent = 2 * self.d_model * (s.d_latent or 0)
        return Sizes(
            matrices=router + shared + shared_gate + latent,
            vectors=s.n_routed * (s.bias + s.score_bias),
            expert_matrices=n_matrix_params(width, s.d_expert, s.gated),
            expert_vectors=s.bias * n_bias_params(width, s.d_expert, s.gated),
            n_routed=s.n_routed,
            top_k=s.top_k,
        )

    def experts_read(self, tokens: Num) -> Num:
        """Of n experts, n (1 - (1 - k/n)^tokens) are expected to be chosen."""
        return 1 - (1 - self.spec.top_k / self.spec.n_routed) ** tokens

    def forward_flops(self, tokens: Num) -> Terms:
        s = self.spec
        d_model = self.d_model
        terms = [product("router", tokens, d_model, s.n_routed)]
        if s.shared_gate:
            terms.append(product("router", tokens, d_model, 1))
        if s.shared_width:
            terms += in_and_out("shared", tokens, d_model, s.shared_width, s.gated)
        if s.d_latent:
            terms.append(product("latent", tokens, d_model, s.d_latent))
            terms.append(product("latent", tokens, s.d_latent, d_model))
        experts = in_and_out(
            "experts",
            tokens,
            self._expert_input,
            s.d_expert,
            s.gated,
            copies=s.n_routed,
            used=s.top_k,
        )
        return terms + experts

    def workspace(self, tokens: Num, width: int) -> Num:
        # Beside the activations: indices and weights of the chosen (24 bytes each), scores in
        # float32.
        routing = 24 * self.spec.top_k + 4 * self.spec.n_routed
        return width * tokens * self._workspace_elements() + tokens * routing

    def _workspace_elements(self) -> int:
        """Elements per token: chosen rows, each expert's output and their join; the same of the
        projection back; weighting and adding up; the shared experts. A latent stays beside all of
        it until its sum is projected back."""
        s = self.spec
        width = self._expert_input
        gated = 2 if s.gated else 1
        inside = s.top_k * s.d_expert
        chosen = s.top_k * width
        held = chosen + s.top_k  # outputs and their weights
        moments = [
            chosen + 2 * gated * inside,
            (gated + 1) * inside + 2 * chosen,
            held + chosen + 2 * width,
        ]
        if s.d_latent:
            moments.append(held + width + self.d_model)
        if s.shared_width:
            dense = gated_workspace if s.gated else plain_workspace
            moments.append(held + self.d_model + dense(self.d_model, s.shared_width))
        return (s.d_latent or 0) + max(moments)
