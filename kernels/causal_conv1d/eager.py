"""The convolution as W shifted multiply-adds.

It transposes nothing and works in any dtype. Memory bandwidth limits its speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.causal_conv1d`."""
    b, t, c = x.shape
    w = weight.shape[1]
    before = x.new_zeros(b, w - 1, c)
    if state is not None:
        before = state.to(x.dtype)
    padded = torch.cat([before, x], 1)
    y = bias.expand(b, t, c)
    for j in range(w):
        y = torch.addcmul(y, padded[:, j : j + t], weight[:, j])
    # A copy, because a view would keep the whole padded input alive.
    return F.silu(y), padded[:, t:].clone()
