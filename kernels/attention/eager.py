"""Attention through torch's scaled_dot_product_attention: whole, or block by block where there is a
window."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, sink: int, gap: int, scale: float
) -> Tensor:
    """See `kernels.attention`."""
    t, s, d_v = q.shape[1], k.shape[1], v.shape[-1]
    q, k, v = _same_width(q, k, v)
    if t == 1 and s + gap <= (window + sink if window else s):
        out = _one_query(q, k, v, scale)
    elif window and s + gap > window:
        out = _windowed(q, k, v, window, sink, gap, scale)
    else:
        out = _sdpa(q, k, v, scale, None if t == s else _causal(t, s, q.device))
    return out[..., :d_v]


def attention_step(q: Tensor, k: Tensor, v: Tensor, length: Tensor, scale: float) -> Tensor:
    """See `kernels.attention.attention_step`. On a CPU slots beyond the length are not read."""
    d_v, mask = v.shape[-1], None
    if length.is_cpu:
        k, v = k[:, : int(length)], v[:, : int(length)]
    else:
        mask = torch.arange(k.shape[1], device=k.device) < length
    return _one_query(*_same_width(q, k.to(q.dtype), v.to(q.dtype)), scale, mask)[
        ..., :d_v
    ].contiguous()


def _same_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero-pad the narrower of keys and values: the fused CPU and GPU paths want one width, and
    zeros change nothing."""
    d_k, d_v = k.shape[-1], v.shape[-1]
    if d_k < d_v:
        return F.pad(q, (0, d_v - d_k)), F.pad(k, (0, d_v - d_k)), v
    return q, k, F.pad(v, (0, d_k - d_v)) if d_v < d_k else v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Heads second for torch, and back; causal without a mask."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    ).transpose(1, 2)


def _one_query(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """A single query sees every key (of the mask), so the queries of a group stand in the length
    axis and no key is copied."""
    b, _, h, d = q.shape
    grouped = q.view(b, k.shape[2], h // k.shape[2], d)
    out = F.scaled_dot_product_attention(
        grouped, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return out.reshape(b, 1, h, d)


def _causal(t: int, s: int, device: torch.device) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


def _windowed(
    q: Tensor, k: Tensor, v: Tensor, window: int, sink: int, gap: int, scale: float
) -> Tensor:
    """Blocks of queries, each over the sinks and the slice of keys that its window can reach."""
    t, s, device = q.shape[1], k.shape[1], q.device
    first = s + gap - t  # position of the first query
    sinks = min(sink, s)
    outs = []
    block = max(64, window // 4)
    for a in range(0, t, block):
        b = min(a + block, t)
        high = first + b - gap  # keys from here on lie after the block
        low = max(first + a - window + 1 - gap, sinks)
        index = torch.cat(
            [
                torch.arange(min(sinks, high), device=device),
                torch.arange(low, max(low, high), device=device),
            ]
        )
        k_pos = torch.where(index < sinks, index, index + gap)
        q_pos = torch.arange(first + a, first + b, device=device)[:, None]
        mask = (k_pos <= q_pos) & ((k_pos > q_pos - window) | (k_pos < sink))
        outs.append(
            _sdpa(q[:, a:b], _reach(k, sinks, low, high), _reach(v, sinks, low, high), scale, mask)
        )
    return torch.cat(outs, 1)


def _reach(x: Tensor, sinks: int, low: int, high: int) -> Tensor:
    """Keys or values 0..sinks and low..high; a view where they touch."""
    if low <= sinks:
        return x[:, :high]
    return torch.cat([x[:, :sinks], x[:, low:high]], 1) if sinks else x[:, low:high]
