"""The reference: one query at a time, in float64.

`attention_step` is `attention` over the filled slots.
"""

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
    q = q.double()
    k = k.double()
    v = v.double()
    b, t, h, d = q.shape
    s, g = k.shape[1:3]
    scale = d**-0.5 if scale is None else scale
    out = q.new_zeros(b, t, h, v.shape[-1])
    for i in range(t):
        here = s + gap - t + i
        seen = []
        for j in range(s):
            position = j if j < sink else j + gap
            in_window = not window or position > here - window or position < sink
            if position <= here and in_window:
                seen.append(j)
        for head in range(h):
            group = head // (h // g)
            keys = k[:, seen, group]
            values = v[:, seen, group]
            scores = torch.einsum("bd,bsd->bs", q[:, i, head], keys) * scale
            weights = scores.softmax(-1)
            out[:, i, head] = torch.einsum("bs,bsd->bd", weights, values)
    return out
