"""flash-linear-attention's operations with our signatures, for comparison.

The package must be importable (requirements-fla.txt).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The SSD scan as fla's simple gated linear attention.

    Queries are C, keys B, values dt x, and the logarithm of the gate is dt A. fla takes one key per
    head, and its chunks have 64 tokens, whatever `chunk_size` says.
    """
    from fla.ops.simple_gla import chunk_simple_gla

    heads_per_group = x.shape[2] // B.shape[2]
    values = (x * dt[..., None]).to(x.dtype)
    out, state = chunk_simple_gla(
        C.repeat_interleave(heads_per_group, 2),
        B.repeat_interleave(heads_per_group, 2),
        values,
        g=dt * A,
        scale=1.0,
        output_final_state=True,
    )
    return out + D[:, None] * x, state.transpose(-1, -2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with equal numbers of keys and queries.

    fla's sliding window has no sinks, so windows are not compared.
    """
    from fla.ops.attn import parallel_attn

    out: Tensor = parallel_attn(q, k, v)
    return out


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor,
) -> tuple[Tensor, Tensor]:
    """RMSNorm of x + residual, and the sum itself."""
    from fla.modules.norm.layernorm import rms_norm as norm

    normed, added = norm(x, weight, None, residual, eps, True)
    return normed, added


OPERATIONS: dict[str, Callable[..., Any]] = {
    "ssd": ssd,
    "attention": attention,
    "rms_norm": rms_norm,
}
