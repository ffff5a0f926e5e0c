"""The selective scan in lanes: the sequence is cut into lanes that run side by side from an empty
state, one token of each at a time; then what entered a lane from those before it, decayed, is added
to its outputs.

A piece of tokens at a time, so that states of only a few tokens are ever held; with gradients too,
since a piece is then run again in the backward pass. Decays only shrink, so nothing overflows.
Decays and states are float32 (float64 for float64 inputs)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE = 256  # tokens
LANES = 16
CACHED = 2**18  # elements; where the states of all lanes leave a CPU's cache, one lane is quicker


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `kernels.selective_scan`."""
    exact = torch.promote_types(x.dtype, torch.float32)
    dt, A = dt.to(exact), A.to(exact)
    state = x.new_zeros(x.shape[0], *A.shape, dtype=exact) if state is None else state.to(exact)
    lanes = LANES if x.device.type == "cuda" or LANES * state.numel() <= CACHED else 1
    again = torch.is_grad_enabled() and any(v.requires_grad for v in (x, dt, A, B, C, state))
    ys = []
    for start in range(0, x.shape[1], PIECE):
        piece = slice(start, start + PIECE)
        inputs = (
            x[:, piece],
            dt[:, piece],
            A,
            B[:, piece].to(exact),
            C[:, piece].to(exact),
            state,
            lanes,
        )
        y, state = checkpoint(_piece, *inputs, use_reentrant=False) if again else _piece(*inputs)
        ys.append(y)
    return torch.addcmul(torch.cat(ys, 1).to(x.dtype), x, D.to(x.dtype)), state


def _piece(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, lanes: int
) -> tuple[Tensor, Tensor]:
    """Outputs [b, T, E] of a piece of T tokens, without D, and the state after it."""
    t = dt.shape[1]
    length = math.ceil(t / lanes)
    lanes = math.ceil(t / length)
    # dt 0 leaves a state as it is, so the last lane may be filled up. Each [b, lanes, length, ...]
    dt, inflow, B, C = (
        F.pad(v, (0, 0, 0, lanes * length - t)).unflatten(1, (lanes, length))
        for v in (dt, dt * x, B, C)
    )
    held = F.pad(
        state[:, None], (0, 0, 0, 0, 0, lanes - 1)
    )  # [b, lanes, E, N]; the first lane goes on from `state`
    ys = []
    for i in range(length):
        held = torch.addcmul(
            inflow[:, :, i, :, None] * B[:, :, i, None], held, torch.exp(dt[:, :, i, :, None] * A)
        )
        ys.append((held @ C[:, :, i, :, None]).squeeze(-1))
    y = torch.stack(ys, 2)
    if lanes > 1:
        elapsed = dt.cumsum(2)
        entered, state = _carry(held, torch.exp(elapsed[:, :, -1, :, None] * A))
        late = [
            ((entered * torch.exp(elapsed[:, 1:, i, :, None] * A)) @ C[:, 1:, i, :, None]).squeeze(
                -1
            )
            for i in range(length)
        ]
        y = torch.cat([y[:, :1], y[:, 1:] + torch.stack(late, 2)], 1)
    else:
        state = held[:, 0]
    return y.flatten(1, 2)[:, :t], state


def _carry(held: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """What lanes 2, 3, ... are entered with [b, lanes - 1, E, N], and the state after the last,
    from each lane's own end and decay."""
    states = [held[:, 0]]
    for lane in range(1, held.shape[1]):
        states.append(torch.addcmul(held[:, lane], decay[:, lane], states[-1]))
    return torch.stack(states[:-1], 1), states[-1]


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """See `kernels.selective_scan_step`."""
    exact = torch.promote_types(x.dtype, torch.float32)
    step, x_now = dt[:, 0].to(exact), x[:, 0].to(exact)
    inflow = (step * x_now)[..., None].to(state.dtype)
    state.mul_(torch.exp(step[..., None] * A.to(exact)).to(state.dtype)).addcmul_(
        inflow, B[:, 0, None].to(state.dtype)
    )
    y = (state.to(exact) @ C[:, 0, :, None].to(exact)).squeeze(-1)
    return torch.addcmul(y, x_now, D.to(exact)).to(x.dtype).unsqueeze(1)
