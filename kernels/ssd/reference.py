"""The reference: the recurrence, one token at a time, in float64."""

import torch
from torch import Tensor


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments as `kernels.ssd`; float64 out."""
    x = x.double()
    dt = dt.double()
    A = A.double()
    D = D.double()
    b, t, h, p = x.shape
    heads_per_group = h // B.shape[2]
    B = B.double().repeat_interleave(heads_per_group, 2)
    C = C.double().repeat_interleave(heads_per_group, 2)
    held = x.new_zeros(b, h, p, B.shape[-1])
    if state is not None:
        held = state.double()
    ys = []
    for i in range(t):
        decay = torch.exp(dt[:, i] * A)
        added = torch.einsum(
            "bh,bhp,bhn->bhpn",
            dt[:, i],
            x[:, i],
            B[:, i],
        )
        held = held * decay[..., None, None] + added
        y = torch.einsum("bhpn,bhn->bhp", held, C[:, i])
        ys.append(y + D[:, None] * x[:, i])
    return torch.stack(ys, 1), held
