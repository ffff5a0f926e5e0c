"""The SSD scan chunk by chunk: inside a chunk a masked matrix product, between chunks a state.

See arXiv 2405.21060, Section 6. Working on one chunk at a time keeps the working set in cache and
memory constant in T. The heads of a group share B and C. So their states form one tall matrix, and
every product with it is a single matrix product per group. Decays and states are float32 (float64
for float64 inputs). Shape letters: b sequences, l positions of a chunk, g groups, h heads of width
p, n states per channel.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CACHED = 2**17  # pairs of positions whose products fit a CPU's cache
# The logarithm of the smallest decay. It is far below rounding errors, and far above denormal
# numbers, which slow a CPU down.
FORGOTTEN = -60.0


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
    dt = dt.to(exact)
    A = A.to(exact)
    if state is None:
        state = x.new_zeros(b, h, p, B.shape[-1], dtype=exact)
    state = state.to(exact)
    inputs = (x, dt, A, B, C, D, state)
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    # The closed form of dt's gradient needs y, and a rounded y would make it inaccurate.
    if trains and x.dtype == exact:
        out: tuple[Tensor, Tensor]
        out = _Differentiable.apply(*inputs, chunk_size)  # type: ignore[no-untyped-call]
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
        y, state = _chunk(
            x[:, piece],
            dt[:, piece],
            A,
            B[:, piece],
            C[:, piece],
            D,
            state,
        )
        yield y, state


def _pieces(length: int, chunk_size: int) -> list[slice]:
    """The chunks of a sequence as slices; the last may be shorter."""
    pieces = []
    for start in range(0, length, chunk_size):
        stop = min(start + chunk_size, length)
        pieces.append(slice(start, stop))
    return pieces


def _joined(pieces: list[Tensor]) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces, 1)


class _Differentiable(torch.autograd.Function):
    """The scan with its gradient in closed form.

    It keeps one state per chunk and takes half the time of autograd's gradient. There is a decay
    between every pair of positions, but the gradient of its logarithm needs no product over pairs:
    summed over the pairs that end at i, it is dy_i . (y_i - D x_i). Summed over the pairs that
    begin at j, it is u_j . du_j with u = dt x.
    """

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
        ys = []
        states = [state]
        for y, after in _walk(x, dt, A, B, C, D, state, chunk_size):
            ys.append(y)
            states.append(after)
        y = _joined(ys)
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(x, dt, A, B, C, D, y, *states)
        return y, states[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_state: Tensor) -> Any:
        x, dt, A, B, C, D, y, *states = ctx.saved_tensors
        u = x * dt[..., None]
        log = dt * A
        d_u = torch.empty_like(x)
        d_B = torch.empty_like(B)
        d_C = torch.empty_like(C)
        d_yx = (d_y * x).sum(-1)
        # The gradient of the log decay from the chunk's beginning to each token. These are the
        # pairs that end at the token; the pairs that begin at it are subtracted below.
        d_log = (d_y * y).sum(-1) - d_yx * D
        pieces = _pieces(x.shape[1], ctx.chunk_size)
        for i in reversed(range(len(pieces))):
            piece = pieces[i]
            d_log[:, piece.stop - 1] += (d_state * states[i + 1]).sum((-1, -2))
            d_u[:, piece], d_B[:, piece], d_C[:, piece], d_state = _chunk_backward(
                u[:, piece],
                log[:, piece],
                B[:, piece],
                C[:, piece],
                states[i],
                d_y[:, piece],
                d_state,
            )
        d_ux = (d_u * x).sum(-1)
        d_log -= d_ux * dt
        # dt_t A is part of every decay that ends at t or later in the chunk, so sum from the end.
        d_logs = _joined([d_log[:, piece].flip(1).cumsum(1).flip(1) for piece in pieces])
        d_dt = torch.addcmul(d_ux, d_logs, A)
        d_A = (d_logs * dt).sum((0, 1))
        d_D = d_yx.sum((0, 1))
        d_x = torch.addcmul(d_u.mul_(dt[..., None]), d_y, D[:, None])
        return d_x, d_dt, d_A, d_B, d_C, d_D, d_state, None


def _chunk_backward(
    u: Tensor,
    log: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    d_y: Tensor,
    d_after: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a chunk's inputs, from the gradients of its y and of the state after it.

    The inputs are u [b, l, h, p], B and C [b, l, g, n], and the state before the chunk.
    """
    b, length, h, p = u.shape
    g, n = B.shape[2:]
    log_decay = log.transpose(1, 2).cumsum(-1)  # [b, h, l]
    B_g = B.transpose(1, 2)  # [b, g, l, n]
    C_g = C.transpose(1, 2)  # [b, g, l, n]
    scores = (C_g @ B_g.transpose(-1, -2)).tril_().unsqueeze(2)
    d_scores = u.new_zeros(b, g, length, length)
    d_us = []
    parts = _few_heads(
        log_decay,
        g,
        u.transpose(1, 2),
        d_y.transpose(1, 2),
    )
    for part, u_part, d_y_part in parts:
        decay = _between(part)
        d_us.append((scores * decay).transpose(-1, -2) @ d_y_part)
        d_scores += (d_y_part @ u_part.transpose(-1, -2)).mul_(decay).sum(2)
    d_scores.tril_()

    tall = state.view(b, g, h // g * p, n)
    d_tall = d_after.reshape(b, g, h // g * p, n)
    since = _decay(log_decay).transpose(1, 2)[..., None]  # [b, l, h, 1]
    to_end = _decay(log_decay[..., -1:] - log_decay).transpose(1, 2)[..., None]
    d_y_since = _by_group(d_y * since, g)
    u_to_end = _by_group(u * to_end, g)
    d_C = d_scores @ B_g + d_y_since @ tall
    d_B = d_scores.transpose(-1, -2) @ C_g + u_to_end @ d_tall
    carried = B_g @ d_tall.transpose(-1, -2)
    carried = carried.transpose(1, 2).reshape(b, length, h, p)
    within = torch.cat(d_us, 2).view(b, h, length, p).transpose(1, 2)
    d_u = torch.addcmul(within, carried, to_end)
    d_state = (d_y_since.transpose(-1, -2) @ C_g).view(b, h, p, n)
    whole = _decay(log_decay[..., -1])[..., None, None]
    d_state = torch.addcmul(d_state, d_after, whole)
    return d_u, d_B.transpose(1, 2), d_C.transpose(1, 2), d_state


def _chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One chunk of length l: its outputs [b, l, h, p] and the state after it."""
    b, length, h, p = x.shape
    g, n = B.shape[2:]
    dt_h = dt.transpose(1, 2)
    x_h = x.transpose(1, 2)
    log_decay = (dt_h * A[:, None]).cumsum(-1)  # [b, h, l]
    inflow = x_h * dt_h.to(x.dtype)[..., None]  # [b, h, l, p]
    B_g = B.transpose(1, 2)  # [b, g, l, n]
    C_g = C.transpose(1, 2)  # [b, g, l, n]

    # Within the chunk: y_i += sum_{j <= i} (C_i . B_j) exp(decay from j to i) dt_j x_j
    scores = (C_g @ B_g.transpose(-1, -2)).tril_().unsqueeze(2)
    y = _within(scores, log_decay, inflow).view(b, h, length, p)

    # From the state before the chunk: y_i += C_i . (decay from the beginning to i) state
    tall = state.view(b, g, h // g * p, n)
    from_state = _by_head(C_g @ tall.to(x.dtype).transpose(-1, -2), h)
    y = torch.addcmul(y, from_state, _decay(log_decay).to(x.dtype)[..., None])

    # On to the state after the chunk
    to_end = _decay(log_decay[..., -1:] - log_decay).to(x.dtype)[..., None]
    weighted = (inflow * to_end).view(b, g, h // g, length, p).transpose(-1, -2)
    added = weighted.reshape(b, g, h // g * p, length) @ B_g
    added = added.view(b, h, p, n)
    whole = _decay(log_decay[..., -1])[..., None, None]
    state = torch.addcmul(added.to(state.dtype), state, whole)
    y = torch.addcmul(y, x_h, D.to(x.dtype)[:, None, None])
    return y.transpose(1, 2), state


def _within(scores: Tensor, log_decay: Tensor, inflow: Tensor) -> Tensor:
    """What the tokens of a chunk contribute to each other, [b, g, heads, l, p].

    The products of pairs are the largest tensors of the scan. They are not bound to names, so that
    each is freed before the next few heads begin.
    """
    parts = _few_heads(log_decay, scores.shape[1], inflow)
    outputs = ((scores * _between(part)).to(u.dtype) @ u for part, u in parts)
    return torch.cat(list(outputs), 2)


def _by_head(grouped: Tensor, n_heads: int) -> Tensor:
    """[b, g, l, heads of the group * p] as [b, h, l, p]."""
    b, g, length, _ = grouped.shape
    apart = grouped.view(b, g, length, n_heads // g, -1)
    return apart.permute(0, 1, 3, 2, 4).reshape(b, n_heads, length, -1)


def _by_group(x: Tensor, g: int) -> Tensor:
    """[b, l, h, p] as [b, g, l, heads of the group * p]."""
    b, length, h, p = x.shape
    return x.reshape(b, length, g, h // g * p).transpose(1, 2)


def _decay(log: Tensor) -> Tensor:
    """exp(log), but not below exp(FORGOTTEN)."""
    return log.clamp(min=FORGOTTEN).exp_()


def _few_heads(log_decay: Tensor, g: int, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """log_decay [b, h, l] and the others [b, h, l, p], a few heads of each group at a time.

    The parts are [b, g, heads, l] and [b, g, heads, l, p]. On a CPU, the pairs of positions for the
    heads of one part fit into the cache.
    """
    b, h, length = log_decay.shape
    at_once = h // g
    if log_decay.device.type != "cuda":
        at_once = max(1, CACHED // (b * g * length**2))
    parts = []
    for tensor in (log_decay, *others):
        grouped = tensor.reshape(b, g, h // g, *tensor.shape[2:])
        parts.append(grouped.split(at_once, 2))
    yield from zip(*parts, strict=True)


def _between(log_decay: Tensor) -> Tensor:
    """The decay from j to i for all pairs [..., i, j].

    For j after i the value is finite and has no meaning.
    """
    between = log_decay[..., :, None] - log_decay[..., None, :]
    return between.clamp_(FORGOTTEN, -FORGOTTEN).exp_()


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """See `kernels.ssd_step`."""
    b, _, h, p = x.shape
    g, n = B.shape[2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    step = dt[:, 0].to(exact)
    x_now = x[:, 0].to(exact)
    grouped = state.view(b, g, h // g * p, n)
    per_head = torch.exp(step * A.to(exact))
    decay = per_head[..., None].expand(b, h, p).reshape(b, g, h // g * p, 1)
    inflow = (step[..., None] * x_now).view(b, g, h // g * p, 1)
    grouped.mul_(decay.to(state.dtype))
    grouped.addcmul_(inflow.to(state.dtype), B[:, 0].to(state.dtype).unsqueeze(2))
    y = grouped.to(exact) @ C[:, 0].to(exact).unsqueeze(-1)
    y = y.view(b, h, p)
    y = torch.addcmul(y, x_now, D.to(exact)[:, None])
    return y.to(x.dtype).unsqueeze(1)
