"""The reference: one position at a time, in float64."""

import torch
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.causal_conv1d`; float64 out."""
    x = x.double()
    weight = weight.double()
    bias = bias.double()
    b, t, c = x.shape
    w = weight.shape[1]
    held = x.new_zeros(b, w - 1, c)
    if state is not None:
        held = state.double()
    ys = []
    for i in range(t):
        seen = torch.cat([held, x[:, i : i + 1]], 1)
        y = bias
        for j in range(w):
            y = y + weight[:, j] * seen[:, j]
        ys.append(y * torch.sigmoid(y))
        held = seen[:, 1:]
    return torch.stack(ys, 1), held
