"""The reference: the recurrence, one token at a time, in float64."""

import torch
from torch import Tensor


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.selective_scan`; float64 out."""
    x = x.double()
    dt = dt.double()
    A = A.double()
    B = B.double()
    C = C.double()
    D = D.double()
    held = x.new_zeros(x.shape[0], *A.shape)
    if state is not None:
        held = state.double()
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
        y = torch.einsum("ben,bn->be", held, C[:, i])
        ys.append(y + D * x[:, i])
    return torch.stack(ys, 1), held
