"""Costs of the feed-forward parts: gated (SwiGLU), plain (MLP) and mixture of experts. Twin of
modules/ffn.py and modules/moe.py."""

from typing import NamedTuple

from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.terms import Num, Terms, product


class Sizes(NamedTuple):
    """Parameters of a feed-forward: matrices and vectors (biases, gates of one column are matrices)
    that every token uses, and those of one routed expert, of which `top_k` of `n_routed` are
    used."""

    matrices: int
    vectors: int = 0
    expert_matrices: int = 0
    expert_vectors: int = 0
    n_routed: int = 0
    top_k: int = 0

    @property
    def expert(self) -> int:
        return self.expert_matrices + self.expert_vectors

    @property
    def total(self) -> int:
        return self.matrices + self.vectors + self.n_routed * self.expert


def sizes(ffn: AnyFfn | None, d_model: int) -> Sizes:
    """What a feed-forward is made of. The paper's balancing bias is a buffer, not a parameter,
    unless `score_bias` makes it one."""
    if ffn is None:
        return Sizes(0)
    if not isinstance(ffn, MoE):
        return Sizes(
            _matrices(d_model, ffn.d_ff, isinstance(ffn, SwiGLU)),
            ffn.bias * _biases(d_model, ffn.d_ff, isinstance(ffn, SwiGLU)),
        )
    width = ffn.d_latent or d_model
    return Sizes(
        matrices=d_model * ffn.n_routed
        + _matrices(d_model, ffn.shared_width, ffn.gated)
        + (d_model if ffn.shared_gate else 0)
        + 2 * d_model * (ffn.d_latent or 0),
        vectors=ffn.n_routed * (ffn.bias + ffn.score_bias),
        expert_matrices=_matrices(width, ffn.d_expert, ffn.gated),
        expert_vectors=ffn.bias * _biases(width, ffn.d_expert, ffn.gated),
        n_routed=ffn.n_routed,
        top_k=ffn.top_k,
    )


def _matrices(d_model: int, d_ff: int, gated: bool) -> int:
    return (3 if gated else 2) * d_model * d_ff


def _biases(d_model: int, d_ff: int, gated: bool) -> int:
    return (2 if gated else 1) * d_ff + d_model


def params(ffn: AnyFfn | None, d_model: int) -> int:
    """All parameters: 3 d_model d_ff of a gated feed-forward, or router and every expert."""
    return sizes(ffn, d_model).total


def active_params(ffn: AnyFfn | None, d_model: int) -> int:
    """The parameters that one token uses."""
    s = sizes(ffn, d_model)
    return s.total - (s.n_routed - s.top_k) * s.expert


def forward_flops(ffn: AnyFfn | None, d_model: int, tokens: Num) -> Terms:
    """2 FLOPs per element of a matrix that a token uses."""
    if ffn is None:
        return []
    if not isinstance(ffn, MoE):
        return _in_and_out("ffn", tokens, d_model, ffn.d_ff, isinstance(ffn, SwiGLU))
    terms = [product("router", tokens, d_model, ffn.n_routed)]
    if ffn.shared_gate:
        terms += [product("router", tokens, d_model, 1)]
    if ffn.shared_width:
        terms += _in_and_out("shared", tokens, d_model, ffn.shared_width, ffn.gated)
    if ffn.d_latent:
        terms += [
            product("latent", tokens, d_model, ffn.d_latent),
            product("latent", tokens, ffn.d_latent, d_model),
        ]
    width = ffn.d_latent or d_model
    return terms + _in_and_out(
        "experts", tokens, width, ffn.d_expert, ffn.gated, ffn.n_routed, ffn.top_k
    )


def _in_and_out(
    name: str, tokens: Num, width: int, d_ff: int, gated: bool, copies: int = 1, used: int = 1
) -> Terms:
    """The way in, its gate where it has one, and the way out."""
    into = ("gate", "up") if gated else ("up",)
    terms = [product(f"{name}.{way}", tokens, width, d_ff, copies, used) for way in into]
    return [*terms, product(f"{name}.down", tokens, d_ff, width, copies, used)]


def params_read(ffn: AnyFfn | None, d_model: int, tokens: Num) -> Num:
    """Parameters that a step over `tokens` tokens reads: of n experts, n (1 - (1 - k/n)^tokens) are
    expected to be chosen."""
    s = sizes(ffn, d_model)
    return s.total - (1 - experts_read(ffn, tokens)) * s.n_routed * s.expert


def experts_read(ffn: AnyFfn | None, tokens: Num) -> Num:
    """The share of the routed experts that a step over `tokens` tokens is expected to choose at
    least once."""
    if not isinstance(ffn, MoE):
        return 1.0
    return 1 - (1 - ffn.top_k / ffn.n_routed) ** tokens


def workspace(ffn: AnyFfn | None, d_model: int, tokens: Num, width: int) -> Num:
    """Bytes at the widest moment, beside the block's input and its norm; `width` bytes an
    element."""
    if ffn is None:
        return 0
    if isinstance(ffn, MoE):
        return width * tokens * _routed_workspace(ffn, d_model) + tokens * (
            24 * ffn.top_k + 4 * ffn.n_routed
        )
    return (
        width
        * tokens
        * (_plain_workspace if isinstance(ffn, Mlp) else _gated_workspace)(d_model, ffn.d_ff)
    )


def _plain_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token: what is widened and its activation; or that and the output."""
    return max(2 * d_ff, d_ff + d_model)


def _gated_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token: gate and up, silu(gate), their product; or the product and the output
    beside gate and up."""
    return max(4 * d_ff, 3 * d_ff + d_model)


def _routed_workspace(moe: MoE, d_model: int) -> int:
    """Elements per token: chosen rows, each expert's output and their join; the same of the
    projection back; weighting and adding up; the shared experts. A latent stays beside all of it
    until its sum is projected back."""
    width, gated = moe.d_latent or d_model, 2 if moe.gated else 1
    inside, chosen = moe.top_k * moe.d_expert, moe.top_k * width
    held = chosen + moe.top_k  # outputs and their weights
    shared = (_gated_workspace if moe.gated else _plain_workspace)(d_model, moe.shared_width)
    return (moe.d_latent or 0) + max(
        chosen + 2 * gated * inside,
        2 * gated * inside,
        (gated + 1) * inside + 2 * chosen,
        held + chosen + 2 * width,
        held + width + d_model if moe.d_latent else 0,
        held + d_model + shared if moe.shared_width else 0,
    )
