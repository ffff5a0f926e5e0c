"""Attention through torch's scaled_dot_product_attention.

It takes all queries at once, or block by block if there is a window. Shape letters as in
`kernels.attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    sink: int,
    gap: int,
    scale: float,
) -> Tensor:
    """See `kernels.attention`."""
    t = q.shape[1]
    s = k.shape[1]
    d_v = v.shape[-1]
    q, k, v = _same_width(q, k, v)
    visible = window + sink if window else s
    if t == 1 and s + gap <= visible:
        out = _one_query(q, k, v, scale)
    elif window and s + gap > window:
        out = _windowed(q, k, v, window, sink, gap, scale)
    else:
        mask = None
        if t != s:
            mask = _causal(t, s, q.device)
        out = _sdpa(q, k, v, scale, mask)
    return out[..., :d_v]


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    scale: float,
) -> Tensor:
    """See `kernels.attention.attention_step`. On a CPU, slots beyond the length are not read."""
    d_v = v.shape[-1]
    mask = None
    if length.is_cpu:
        k = k[:, : int(length)]
        v = v[:, : int(length)]
    else:
        mask = torch.arange(k.shape[1], device=k.device) < length
    k = k.to(q.dtype)
    v = v.to(q.dtype)
    q, k, v = _same_width(q, k, v)
    out = _one_query(q, k, v, scale, mask)
    return out[..., :d_v].contiguous()


def _same_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the narrower of keys and values with zeros, which do not change the result.

    The fused implementations on CPU and GPU need equal widths.
    """
    d_k = k.shape[-1]
    d_v = v.shape[-1]
    if d_k < d_v:
        q = F.pad(q, (0, d_v - d_k))
        k = F.pad(k, (0, d_v - d_k))
    elif d_v < d_k:
        v = F.pad(v, (0, d_k - d_v))
    return q, k, v


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
) -> Tensor:
    """torch's operation, with heads on the third axis instead of the second.

    Causal if there is no mask.
    """
    q = q.transpose(1, 2)
    k = k.transpose(1, 2)
    v = v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=grouped,
    )
    return out.transpose(1, 2)


def _one_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of a single query, which sees every key that the mask allows.

    The query heads of a group take the place of the positions, so that no key is copied.
    """
    b, _, h, d = q.shape
    grouped = q.view(b, k.shape[2], h // k.shape[2], d)
    out = F.scaled_dot_product_attention(
        grouped,
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        scale=scale,
    )
    return out.reshape(b, 1, h, d)


def _causal(t: int, s: int, device: torch.device) -> Tensor:
    """The mask of the last t of s positions, [t, s]."""
    everything = torch.ones(t, s, dtype=torch.bool, device=device)
    return everything.tril(s - t)


def _windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    sink: int,
    gap: int,
    scale: float,
) -> Tensor:
    """Blocks of queries, each over the sinks and the slice of keys that its window can reach."""
    t = q.shape[1]
    s = k.shape[1]
    device = q.device
    first = s + gap - t  # the position of the first query
    sinks = min(sink, s)
    outs = []
    block = max(64, window // 4)
    for begin in range(0, t, block):
        end = min(begin + block, t)
        high = first + end - gap  # keys from here on are after the block
        low = max(first + begin - window + 1 - gap, sinks)
        index = _reached(min(sinks, high), low, max(low, high), device)
        k_pos = torch.where(index < sinks, index, index + gap)
        q_pos = torch.arange(first + begin, first + end, device=device)[:, None]
        # One expression, because a name would keep a second mask alive.
        mask = (k_pos <= q_pos) & ((k_pos > q_pos - window) | (k_pos < sink))
        # Keys and values are not bound to names, so they are freed before the next block's.
        out = _sdpa(
            q[:, begin:end],
            _reach(k, sinks, low, high),
            _reach(v, sinks, low, high),
            scale,
            mask,
        )
        outs.append(out)
    return torch.cat(outs, 1)


def _reached(
    sinks: int,
    low: int,
    high: int,
    device: torch.device,
) -> Tensor:
    """The indices 0..sinks and low..high."""
    first = torch.arange(sinks, device=device)
    rest = torch.arange(low, high, device=device)
    return torch.cat([first, rest])


def _reach(
    x: Tensor,
    sinks: int,
    low: int,
    high: int,
) -> Tensor:
    """Keys or values 0..sinks and low..high: a view if the two ranges touch, else a copy."""
    if low <= sinks:
        return x[:, :high]
    if not sinks:
        return x[:, low:high]
    return torch.cat([x[:, :sinks], x[:, low:high]], 1)
