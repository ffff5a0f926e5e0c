"""The SSD scan chunk by chunk: inside a chunk a masked matrix product, between chunks a state
(arXiv 2405.21060, Section 6).

One chunk at a time keeps the working set in cache and memory flat in T; heads of a group share B
and C, so their states form one tall matrix and every product with it is a single matrix product per
group. Decays and states are float32 (float64 for float64 inputs)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CACHED = 2**17  # elements; beyond, products of pairs of positions leave a CPU's cache
FORGOTTEN = -60.0  # logarithm of the least decay: far below rounding, and far above denormal numbers, which slow a CPU down


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.ssd`."""
    b, _, h, p = x.shape
    exact = torch.promote_types(x.dtype, torch.float32)
    dt, A = dt.to(exact), A.to(exact)
    state = x.new_zeros(b, h, p, B.shape[-1], dtype=exact) if state is None else state.to(exact)
    inputs = (x, dt, A, B, C, D, state)
    if (
        x.dtype == exact and torch.is_grad_enabled() and any(v.requires_grad for v in inputs)
    ):  # rounded outputs would spoil dt's gradient
        out: tuple[Tensor, Tensor] = _Differentiable.apply(*inputs, chunk_size)  # type: ignore[no-untyped-call]
        return out
    ys = []
    for y, after in _walk(*inputs, chunk_size):
        ys.append(y)
        state = after
    return _joined(ys), state


def _walk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
    chunk_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs of each chunk and the state after it."""
    for piece in _pieces(x.shape[1], chunk_size):
        y, state = _chunk(x[:, piece], dt[:, piece], A, B[:, piece], C[:, piece], D, state)
        yield y, state


def _pieces(length: int, chunk_size: int) -> list[slice]:
    return [slice(start, min(start + chunk_size, length)) for start in range(0, length, chunk_size)]


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


class _Differentiable(torch.autograd.Function):
    """The same with its gradient in closed form, which keeps one state per chunk and takes half the
    time of autograd's.

    A decay stands between every pair of positions. Its logarithm's gradient, summed over the pairs
    that end in i, is dy_i . (y_i - D x_i); over those that begin in j, u_j . du_j with u = dt x; so
    no product of pairs is formed for it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        state: Tensor,
        chunk_size: int,
    ) -> Any:
        ys, states = [], [state]
        for y, after in _walk(x, dt, A, B, C, D, state, chunk_size):
            ys.append(y)
            states.append(after)
        y, ctx.chunk_size = _joined(ys), chunk_size
        ctx.save_for_backward(x, dt, A, B, C, D, y, *states)
        return y, states[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_state: Tensor) -> Any:
        x, dt, A, B, C, D, y, *states = ctx.saved_tensors
        u, log = x * dt[..., None], dt * A
        d_u, d_B, d_C = torch.empty_like(x), torch.empty_like(B), torch.empty_like(C)
        d_yx = (d_y * x).sum(-1)
        d_log = (
            (d_y * y).sum(-1) - d_yx * D
        )  # of the decays since the chunk's beginning; what begins in a token is taken off below
        pieces = _pieces(x.shape[1], ctx.chunk_size)
        for i, piece in reversed(list(enumerate(pieces))):
            d_log[:, piece.stop - 1] += (d_state * states[i + 1]).sum((-1, -2))
            chunk = (u[:, piece], log[:, piece], B[:, piece], C[:, piece], states[i])
            d_u[:, piece], d_B[:, piece], d_C[:, piece], d_state = _chunk_backward(
                *chunk, d_y[:, piece], d_state
            )
        d_ux = (d_u * x).sum(-1)
        d_log -= d_ux * dt
        d_logs = _joined([d_log[:, piece].flip(1).cumsum(1).flip(1) for piece in pieces])
        d_dt, d_A = torch.addcmul(d_ux, d_logs, A), (d_logs * dt).sum((0, 1))
        d_x = torch.addcmul(d_u.mul_(dt[..., None]), d_y, D[:, None])
        return d_x, d_dt, d_A, d_B, d_C, d_yx.sum((0, 1)), d_state, None


def _chunk_backward(
    u: Tensor, log: Tensor, B: Tensor, C: Tensor, state: Tensor, d_y: Tensor, d_after: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u [b, l, h, p], of B and C [b, l, g, n] and of the state before a chunk, from
    those of its y and the state after it."""
    (b, length, h, p), (g, n) = u.shape, B.shape[2:]
    log_decay = log.transpose(1, 2).cumsum(-1)  # [b, h, l]
    B_g, C_g = B.transpose(1, 2), C.transpose(1, 2)  # [b, g, l, n]
    scores, d_scores = (
        (C_g @ B_g.transpose(-1, -2)).tril_().unsqueeze(2),
        u.new_zeros(b, g, length, length),
    )
    d_us = []
    for part, u_part, d_y_part in _few_heads(log_decay, g, u.transpose(1, 2), d_y.transpose(1, 2)):
        decay = _between(part)
        d_us.append((scores * decay).transpose(-1, -2) @ d_y_part)
        d_scores += (d_y_part @ u_part.transpose(-1, -2)).mul_(decay).sum(2)
    d_scores.tril_()

    tall, d_tall = state.view(b, g, h // g * p, n), d_after.reshape(b, g, h // g * p, n)
    since, to_end = (
        _decay(v).transpose(1, 2)[..., None] for v in (log_decay, log_decay[..., -1:] - log_decay)
    )  # [b, l, h, 1]
    by_group = [
        v.reshape(b, length, g, h // g * p).transpose(1, 2) for v in (d_y * since, u * to_end)
    ]
    d_C = d_scores @ B_g + by_group[0] @ tall
    d_B = d_scores.transpose(-1, -2) @ C_g + by_group[1] @ d_tall
    carried = (B_g @ d_tall.transpose(-1, -2)).transpose(1, 2).reshape(b, length, h, p)
    d_u = torch.addcmul(torch.cat(d_us, 2).view(b, h, length, p).transpose(1, 2), carried, to_end)
    d_state = (by_group[0].transpose(-1, -2) @ C_g).view(b, h, p, n)
    d_state = torch.addcmul(d_state, d_after, _decay(log_decay[..., -1])[..., None, None])
    return d_u, d_B.transpose(1, 2), d_C.transpose(1, 2), d_state


def _chunk(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk of length l: its outputs [b, l, h, p] and the state after it."""
    (b, length, h, p), (g, n) = x.shape, B.shape[2:]
    dt_h, x_h = dt.transpose(1, 2), x.transpose(1, 2)
    log_decay = (dt_h * A[:, None]).cumsum(-1)  # [b, h, l]
    inflow = x_h * dt_h.to(x.dtype)[..., None]  # [b, h, l, p]
    B_g, C_g = B.transpose(1, 2), C.transpose(1, 2)  # [b, g, l, n]

    # Within the chunk: y_i += sum_{j <= i} (C_i . B_j) exp(decay from j to i) dt_j x_j
    scores = (C_g @ B_g.transpose(-1, -2)).tril_().unsqueeze(2)
    within = (
        (scores * _between(part)).to(x.dtype) @ u for part, u in _few_heads(log_decay, g, inflow)
    )
    y = torch.cat(list(within), 2).view(b, h, length, p)

    # From the state before the chunk, and on to the state after it
    tall = state.view(b, g, h // g * p, n)
    from_state = (
        (C_g @ tall.to(x.dtype).transpose(-1, -2))
        .view(b, g, length, h // g, p)
        .permute(0, 1, 3, 2, 4)
        .reshape(b, h, length, p)
    )
    y = torch.addcmul(y, from_state, _decay(log_decay).to(x.dtype)[..., None])
    to_end = _decay(log_decay[..., -1:] - log_decay).to(x.dtype)[..., None]
    weighted = (inflow * to_end).view(b, g, h // g, length, p).transpose(-1, -2)
    added = (weighted.reshape(b, g, h // g * p, length) @ B_g).view(b, h, p, n)
    state = torch.addcmul(added.to(state.dtype), state, _decay(log_decay[..., -1])[..., None, None])
    return torch.addcmul(y, x_h, D.to(x.dtype)[:, None, None]).transpose(1, 2), state


def _decay(log: Tensor) -> Tensor:
    """exp, and hardly anything for what is forgotten."""
    return log.clamp(min=FORGOTTEN).exp_()


def _few_heads(log_decay: Tensor, g: int, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """log_decay [b, h, l] and others [b, h, l, p] by groups, [b, g, heads, l] and [b, g, heads, l,
    p]: as many heads at once as a cache can hold the pairs of positions of."""
    b, h, length = log_decay.shape
    at_once = h // g if log_decay.device.type == "cuda" else max(1, CACHED // (b * g * length**2))
    grouped = (v.reshape(b, g, h // g, *v.shape[2:]) for v in (log_decay, *others))
    yield from zip(*(v.split(at_once, 2) for v in grouped), strict=True)


def _between(log_decay: Tensor) -> Tensor:
    """The decay from j to i for all pairs [..., i, j]; finite, and without meaning, for what comes
    later."""
    between = log_decay[..., :, None] - log_decay[..., None, :]
    return between.clamp_(FORGOTTEN, -FORGOTTEN).exp_()


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """See `kernels.ssd_step`."""
    b, _, h, p = x.shape
    g, n = B.shape[2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    step, x_now = dt[:, 0].to(exact), x[:, 0].to(exact)
    grouped = state.view(b, g, h // g * p, n)
    decay = torch.exp(step * A.to(exact))[..., None].expand(b, h, p).reshape(b, g, h // g * p, 1)
    inflow = (step[..., None] * x_now).view(b, g, h // g * p, 1)
    grouped.mul_(decay.to(state.dtype)).addcmul_(
        inflow.to(state.dtype), B[:, 0].to(state.dtype).unsqueeze(2)
    )
    y = (grouped.to(exact) @ C[:, 0].to(exact).unsqueeze(-1)).view(b, h, p)
    return torch.addcmul(y, x_now, D.to(exact)[:, None]).to(x.dtype).unsqueeze(1)
