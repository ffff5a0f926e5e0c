"""The SSD scan chunk by chunk: inside a chunk a masked matrix product, between chunks a state (arXiv 2405.21060, Section 6).

One chunk at a time keeps the working set in cache and memory flat in T; heads of a group share B and C, so their states form one
tall matrix and every product with it is a single matrix product per group. Decays and states are float32 (float64 for float64 inputs).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED = 2**17  # elements; beyond, products of pairs of positions leave a CPU's cache
FORGOTTEN = -60.0  # logarithm of the least decay: far below rounding, and far above denormal numbers, which slow a CPU down


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk_size: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `kernels.ssd`."""
    b, t, h, p = x.shape
    exact = torch.promote_types(x.dtype, torch.float32)
    dt, A = dt.to(exact), A.to(exact)
    state = x.new_zeros(b, h, p, B.shape[-1], dtype=exact) if state is None else state.to(exact)
    ys = []
    for start in range(0, t, chunk_size):
        piece = slice(start, min(start + chunk_size, t))
        y, state = _chunk(x[:, piece], dt[:, piece], A, B[:, piece], C[:, piece], D, state)
        ys.append(y)
    return ys[0] if len(ys) == 1 else torch.cat(ys, 1), state


def _chunk(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of length l: its outputs [b, l, h, p] and the state after it."""
    (b, length, h, p), (g, n) = x.shape, B.shape[2:]
    dt_h, x_h = dt.transpose(1, 2), x.transpose(1, 2)
    log_decay = (dt_h * A[:, None]).cumsum(-1)  # [b, h, l]
    inflow = x_h * dt_h.to(x.dtype)[..., None]  # [b, h, l, p]
    B_g, C_g = B.transpose(1, 2), C.transpose(1, 2)  # [b, g, l, n]

    # Within the chunk: y_i += sum_{j <= i} (C_i . B_j) exp(decay from j to i) dt_j x_j
    scores = (C_g @ B_g.transpose(-1, -2)).tril_().unsqueeze(2)
    within = (_within(scores, part, x_part) for part, x_part in _few_heads(log_decay, inflow, g))
    y = torch.cat(list(within), 2).view(b, h, length, p)

    # From the state before the chunk, and on to the state after it
    tall = state.view(b, g, h // g * p, n)
    from_state = (C_g @ tall.to(x.dtype).transpose(-1, -2)).view(b, g, length, h // g, p).permute(0, 1, 3, 2, 4).reshape(b, h, length, p)
    y = torch.addcmul(y, from_state, _decay(log_decay).to(x.dtype)[..., None])
    to_end = _decay(log_decay[..., -1:] - log_decay).to(x.dtype)[..., None]
    weighted = (inflow * to_end).view(b, g, h // g, length, p).transpose(-1, -2)
    added = (weighted.reshape(b, g, h // g * p, length) @ B_g).view(b, h, p, n)
    state = torch.addcmul(added.to(state.dtype), state, _decay(log_decay[..., -1])[..., None, None])
    return torch.addcmul(y, x_h, D.to(x.dtype)[:, None, None]).transpose(1, 2), state


def _decay(log: Tensor) -> Tensor:
    """exp, and hardly anything for what is forgotten."""
    return log.clamp(min=FORGOTTEN).exp_()


def _few_heads(log_decay: Tensor, inflow: Tensor, g: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both by groups, [b, g, heads, l] and [b, g, heads, l, p], as many heads at once as a cache can hold the pairs of positions of."""
    b, h, length = log_decay.shape
    at_once = h // g if log_decay.device.type == "cuda" else max(1, CACHED // (b * g * length**2))
    log_decay, inflow = log_decay.view(b, g, h // g, length), inflow.reshape(b, g, h // g, length, -1)
    yield from zip(log_decay.split(at_once, 2), inflow.split(at_once, 2), strict=True)


def _within(scores: Tensor, log_decay: Tensor, inflow: Tensor) -> Tensor:
    """scores [b, g, 1, l, l], zero for what comes later, weighted by the decay between positions, times the inflow of those heads:
    [b, g, heads, l, p]."""
    between = log_decay[..., :, None] - log_decay[..., None, :]
    decay = between.clamp_(FORGOTTEN, -FORGOTTEN).exp_()  # finite where the score is zero, too
    return (scores * decay).to(inflow.dtype) @ inflow


def ssd_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor) -> Tensor:
    """See `kernels.ssd_step`."""
    b, _, h, p = x.shape
    g, n = B.shape[2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    step, x_now = dt[:, 0].to(exact), x[:, 0].to(exact)
    grouped = state.view(b, g, h // g * p, n)
    decay = torch.exp(step * A.to(exact))[..., None].expand(b, h, p).reshape(b, g, h // g * p, 1)
    inflow = (step[..., None] * x_now).view(b, g, h // g * p, 1)
    grouped.mul_(decay.to(state.dtype)).addcmul_(inflow.to(state.dtype), B[:, 0].to(state.dtype).unsqueeze(2))
    y = (grouped.to(exact) @ C[:, 0].to(exact).unsqueeze(-1)).view(b, h, p)
    return torch.addcmul(y, x_now, D.to(exact)[:, None]).to(x.dtype).unsqueeze(1)
