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
    """Mixture of experts. Every token uses the `n_shared` shared experts, and `top_k` of `n_routed`
    experts chosen by a router (Appendix L).

    `d_shared`: width of all shared experts together, if it is not n_shared * d_expert.
    `shared_gate`: a sigmoid gate on their output. `score`: how the router scores experts.
    `norm_top_k`: the weights of the chosen experts are normalised to sum to 1. `scale`: factor on
    the routed sum. `score_bias`: the balancing bias is a parameter. `d_latent`: tokens are
    projected to this width before the routed experts, and back to d_model after them."""

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
        """Width of all shared experts together, or 0."""
        return self.d_shared or self.n_shared * self.d_expert

    def costs(self, d_model: int) -> "MoECosts":
        return MoECosts(self, d_model)

    def unbuilt(self, name: str) -> Iterator[str]:
        if self.activation == "clamped_swiglu":
            yield f"{name}.activation: {self.activation}"

    def shrunk(self, factors: Factors) -> Self:
        """The same number of experts, each narrower."""
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
        """Input width of a routed expert."""
        return self.spec.d_latent or self.d_model

    def _sizes(self) -> Sizes:
        """The paper's balancing bias is a buffer. It counts only with `score_bias`."""
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
        """1 - (1 - k/n)^tokens, where each token chooses k of n experts at random."""
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
        s = self.spec
        # Per chosen expert, three int64 (its index, its place when sorted, its row). Per expert, a
        # float32 score.
        routing = 24 * s.top_k + 4 * s.n_routed
        return width * tokens * self._peak_channels() + tokens * routing

    def _peak_channels(self) -> int:
        """Elements per token at the peak of `MixtureOfExperts.forward` (live/modules/moe.py)."""
        s = self.spec
        width = self._expert_input
        ways_in = 2 if s.gated else 1
        inside = s.top_k * s.d_expert
        rows = s.top_k * width  # the chosen rows, or the experts' outputs
        weighted = rows + s.top_k  # the outputs and their weights
        moments = [
            # Products of the first matrices: each expert's on its own, and their join.
            rows + 2 * ways_in * inside,
            # The same for the second matrix, in addition to the results of the first ones.
            (ways_in + 1) * inside + 2 * rows,
            # Outputs times weights, then zeros and their sum by row (`index_add`).
            weighted + rows + 2 * width,
        ]
        if s.d_latent:
            moments.append(weighted + width + self.d_model)  # `self.out`
        if s.shared_width:
            dense = gated_workspace if s.gated else plain_workspace
            shared = dense(self.d_model, s.shared_width)
            moments.append(weighted + self.d_model + shared)
        # The latent rows stay alive throughout.
        latent = s.d_latent or 0
        return latent + max(moments)
