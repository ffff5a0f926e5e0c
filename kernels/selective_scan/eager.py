"""The selective scan in lanes.

The sequence is cut into lanes that advance in parallel, one token of each at a time. All but the
first start from an empty state. The end states of the lanes then give the state that enters each
lane. Its contribution to the lane's outputs, with its decay, is added last.

The sequence is processed piece by piece, so that only the states of a few tokens are in memory at a
time. The backward pass recomputes each piece for the same reason. Every decay is at most 1, so
nothing overflows. Decays and states are float32 (float64 for float64 inputs).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE = 256  # tokens
LANES = 16
CACHED = 2**18  # elements that fit a CPU's cache; if the states of all lanes do not, use one lane


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.selective_scan`."""
    exact = torch.promote_types(x.dtype, torch.float32)
    dt = dt.to(exact)
    A = A.to(exact)
    if state is None:
        state = x.new_zeros(x.shape[0], *A.shape, dtype=exact)
    state = state.to(exact)
    lanes = 1
    if x.device.type == "cuda" or LANES * state.numel() <= CACHED:
        lanes = LANES
    inputs = (x, dt, A, B, C, state)
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    ys = []
    for start in range(0, x.shape[1], PIECE):
        tokens = slice(start, start + PIECE)
        piece = (
            x[:, tokens],
            dt[:, tokens],
            A,
            B[:, tokens].to(exact),
            C[:, tokens].to(exact),
            state,
            lanes,
        )
        if trains:
            y, state = checkpoint(_piece, *piece, use_reentrant=False)
        else:
            y, state = _piece(*piece)
        ys.append(y)
    y = torch.cat(ys, 1).to(x.dtype)
    return torch.addcmul(y, x, D.to(x.dtype)), state


def _piece(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    lanes: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [b, T, E] of a piece of T tokens, without D, and the state after it."""
    t = dt.shape[1]
    length = math.ceil(t / lanes)
    lanes = math.ceil(t / length)
    inflow = _in_lanes(dt * x, lanes, length)
    dt = _in_lanes(dt, lanes, length)
    B = _in_lanes(B, lanes, length)
    C = _in_lanes(C, lanes, length)
    # [b, lanes, E, N]; the first lane continues from `state`
    held = F.pad(state[:, None], (0, 0, 0, 0, 0, lanes - 1))
    ys = []
    for i in range(length):
        # In one expression, so that no tensor as large as the states outlives this line.
        held = torch.addcmul(
            inflow[:, :, i, :, None] * B[:, :, i, None],
            held,
            torch.exp(dt[:, :, i, :, None] * A),
        )
        ys.append((held @ C[:, :, i, :, None]).squeeze(-1))
    y = torch.stack(ys, 2)
    if lanes == 1:
        return y.flatten(1, 2)[:, :t], held[:, 0]
    elapsed = dt.cumsum(2)
    entered, state = _carry(held, torch.exp(elapsed[:, :, -1, :, None] * A))
    late = []
    for i in range(length):
        # In one expression for the same reason.
        late.append(_read(entered * torch.exp(elapsed[:, 1:, i, :, None] * A), C[:, 1:, i]))
    y = torch.cat([y[:, :1], y[:, 1:] + torch.stack(late, 2)], 1)
    return y.flatten(1, 2)[:, :t], state


def _read(states: Tensor, C: Tensor) -> Tensor:
    """The output [..., E] of states [..., E, N] for C [..., N]."""
    read: Tensor = (states @ C[..., None]).squeeze(-1)
    return read


def _in_lanes(x: Tensor, lanes: int, length: int) -> Tensor:
    """x [b, T, ...] as [b, lanes, length, ...].

    The last lane is padded with zeros. A token with dt = 0 leaves the state as it is.
    """
    missing = lanes * length - x.shape[1]
    padded = F.pad(x, (0, 0, 0, missing))
    in_lanes: Tensor = padded.unflatten(1, (lanes, length))
    return in_lanes


def _carry(held: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """The states that enter lanes 2, 3, ... [b, lanes - 1, E, N], and the state after the last.

    `held` is the end state of each lane that started from zero, `decay` the decay over the whole
    lane.
    """
    states = [held[:, 0]]
    for lane in range(1, held.shape[1]):
        states.append(torch.addcmul(held[:, lane], decay[:, lane], states[-1]))
    return torch.stack(states[:-1], 1), states[-1]


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """See `kernels.selective_scan_step`."""
    exact = torch.promote_types(x.dtype, torch.float32)
    step = dt[:, 0].to(exact)
    x_now = x[:, 0].to(exact)
    inflow = (step * x_now)[..., None]
    decay = torch.exp(step[..., None] * A.to(exact))
    state.mul_(decay.to(state.dtype))
    state.addcmul_(inflow.to(state.dtype), B[:, 0, None].to(state.dtype))
    y = (state.to(exact) @ C[:, 0, :, None].to(exact)).squeeze(-1)
    y = torch.addcmul(y, x_now, D.to(exact))
    return y.to(x.dtype).unsqueeze(1)
