"""Costs of the feed-forward parts: gated (SwiGLU) and mixture of experts. Twin of modules/ffn.py and modules/moe.py."""

from hybrid_core.costs.terms import Num, linear
from hybrid_core.spec import MoE, SwiGLU


def _gated(d_model: int, d_ff: int) -> int:
    return 3 * d_model * d_ff


def params(ffn: SwiGLU | MoE | None, d_model: int) -> int:
    """All parameters: 3 d_model d_ff, or router (with its balancing bias a buffer, not a parameter) and every expert."""
    if ffn is None:
        return 0
    if isinstance(ffn, SwiGLU):
        return _gated(d_model, ffn.d_ff)
    return d_model * ffn.n_routed + (ffn.n_routed + ffn.n_shared) * _gated(d_model, ffn.d_expert)


def active_params(ffn: SwiGLU | MoE | None, d_model: int) -> int:
    """The parameters that one token uses."""
    idle = (ffn.n_routed - ffn.top_k) * _gated(d_model, ffn.d_expert) if isinstance(ffn, MoE) else 0
    return params(ffn, d_model) - idle


def forward_flops(ffn: SwiGLU | MoE | None, d_model: int, tokens: Num) -> Num:
    """2 FLOPs per active parameter and token: every one of them is in a matrix product."""
    return linear(tokens, 1, active_params(ffn, d_model))


def params_read(ffn: SwiGLU | MoE | None, d_model: int, tokens: Num) -> Num:
    """Parameters that a step over `tokens` tokens reads: of n experts, n (1 - (1 - k/n)^tokens) are expected to be chosen."""
    if not isinstance(ffn, MoE):
        return params(ffn, d_model)
    expected = ffn.n_routed * (1 - (1 - ffn.top_k / ffn.n_routed) ** tokens)
    return params(ffn, d_model) - (ffn.n_routed - expected) * _gated(d_model, ffn.d_expert)


def workspace(ffn: SwiGLU | MoE | None, d_model: int, tokens: Num, width: int) -> Num:
    """Bytes at the widest moment, beside the block's input and its norm; `width` bytes an element."""
    if ffn is None:
        return 0
    if isinstance(ffn, SwiGLU):
        return width * tokens * _gated_workspace(d_model, ffn.d_ff)
    return width * tokens * _routed_workspace(ffn, d_model) + tokens * (24 * ffn.top_k + 4 * ffn.n_routed)


def _gated_workspace(d_model: int, d_ff: int) -> int:
    """Elements per token: gate and up, silu(gate), their product; or the product and the output beside gate and up."""
    return max(4 * d_ff, 3 * d_ff + d_model)


def _routed_workspace(moe: MoE, d_model: int) -> int:
    """Elements per token: chosen rows, each expert's output and their join; the same of the projection back; weighting and adding up;
    the shared experts."""
    inside, chosen = moe.top_k * moe.d_expert, moe.top_k * d_model
    held = 2 * inside + chosen + moe.top_k
    return max(
        chosen + 4 * inside,
        4 * inside,
        3 * inside + 2 * chosen,
        held + chosen + 2 * d_model,
        held + d_model + _gated_workspace(d_model, moe.n_shared * moe.d_expert) if moe.n_shared else 0,
    )
