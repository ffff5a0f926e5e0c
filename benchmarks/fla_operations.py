"""flash-linear-attention's operations under the signatures of ours, for comparison. It must be
importable (requirements-fla.txt)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The scan is its simple gated linear attention: queries C, keys B, values dt x, the logarithm
    of the gate dt A. It has a key for every head and chunks of 64, whatever `chunk_size` says."""
    from fla.ops.simple_gla import chunk_simple_gla

    heads_per_group = x.shape[2] // B.shape[2]
    q, k = (v.repeat_interleave(heads_per_group, 2) for v in (C, B))
    out, state = chunk_simple_gla(
        q, k, (x * dt[..., None]).to(x.dtype), g=dt * A, scale=1.0, output_final_state=True
    )
    return out + D[:, None] * x, state.transpose(-1, -2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, over as many keys as queries. Its window knows no sinks, so windows are not
    compared."""
    from fla.ops.attn import parallel_attn

    out: Tensor = parallel_attn(q, k, v)
    return out


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor,
) -> tuple[Tensor, Tensor]:
    """With a residual, which is returned too."""
    from fla.modules.norm.layernorm import rms_norm as norm

    normed, added = norm(x, weight, None, residual, eps, True)
    return normed, added


OPERATIONS: dict[str, Callable[..., Any]] = {
    "ssd": ssd,
    "attention": attention,
    "rms_norm": rms_norm,
}
