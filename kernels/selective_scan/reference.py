"""The reference: the recurrence, one token at a time, in float64."""

import torch
from torch import Tensor


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.selective_scan`; float64 out."""
    x, dt, A, B, C, D = (v.double() for v in (x, dt, A, B, C, D))
    held = x.new_zeros(x.shape[0], *A.shape) if state is None else state.double()
    ys = []
    for i in range(x.shape[1]):
        decay = torch.exp(dt[:, i, :, None] * A)
        added = torch.einsum(
            "be,be,bn->ben",
            dt[:, i],
            x[:, i],
            B[:, i],
        )
        held = held * decay + added
        ys.append(torch.einsum("ben,bn->be", held, C[:, i]) + D * x[:, i])
    return torch.stack(ys, 1), held
