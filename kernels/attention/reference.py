"""The truth: one query at a time, in float64. `attention_step` is `attention` over the slots that
count."""

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int = 0,
    sink: int = 0,
    gap: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Same arguments as `kernels.attention`; float64 out."""
    q, k, v = q.double(), k.double(), v.double()
    (b, t, h, d), s, g = q.shape, k.shape[1], k.shape[2]
    scale = d**-0.5 if scale is None else scale
    positions = [j if j < sink else j + gap for j in range(s)] if gap else list(range(s))
    out = q.new_zeros(b, t, h, v.shape[-1])
    for i in range(t):
        here = s + gap - t + i
        seen = [
            j
            for j, p in enumerate(positions)
            if p <= here and (not window or p > here - window or p < sink)
        ]
        for head in range(h):
            group = head // (h // g)
            scores = torch.einsum("bd,bsd->bs", q[:, i, head], k[:, seen, group]) * scale
            out[:, i, head] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, seen, group])
    return out
