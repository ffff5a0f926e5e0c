"""Flash attention with grouped queries, window, sinks and gap (arXiv 2307.08691).

Tiles of scores never leave the chip. The query heads that share a key head are the rows of one
group: row r is token r // heads, head r % heads. So keys and values are read once for all of them,
and their gradients need no sum over heads. In decode, the single query fills a tile as far as it
can. Tiles of keys that no row of a tile sees are skipped: those between the sinks and the window,
and those after the last row.

If there are few rows, several programs split the keys. A second kernel combines their results.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels.attention.triton_programs import backward_kv, backward_q, forward, join
from kernels.dispatch import TRITON_DTYPES
from kernels.tiles import block, processors, rows

WIDEST = 256  # channels of a head
SPLITS = 64  # of the keys, at most, and a power of two


def attention_limit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *_: Any,
) -> str | None:
    """Why the kernels do not support these arguments, or None if they do."""
    widest = max(q.shape[-1], v.shape[-1])
    if widest <= WIDEST:
        return None
    return f"heads {widest} wide, and a program can hold at most {WIDEST}"


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
    q = rows(q)
    k = rows(k)
    v = rows(v)
    mask = (window, sink, gap) if window else (k.shape[1], 0, 0)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        out: Tensor = _Attention.apply(q, k, v, mask, scale)
        return out
    out, _ = _attend(q, k, v, mask, scale, _splits(q, k))
    return out


attention_step_limit = attention_limit


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    scale: float,
) -> Tensor:
    """See `kernels.attention.attention_step`.

    There are as many splits as for a full cache; each takes its share of the slots in use. A cache
    in bf16 or fp16 is read directly. A cache in float8 is converted first.
    """
    q = rows(q)
    if k.dtype not in TRITON_DTYPES:
        k = k.to(q.dtype)
    if v.dtype not in TRITON_DTYPES:
        v = v.to(q.dtype)
    k = rows(k)
    v = rows(v)
    everything = (k.shape[1], 0, 0)
    out, _ = _attend(q, k, v, everything, scale, _splits(q, k), length)
    return out


def _sizes(q: Tensor, v: Tensor, heads: int) -> dict[str, int]:
    """Widths, and tile sizes at which few registers spill.

    tests/kernels/compile_for_h100.py prints the number of spills.
    """
    d_k = q.shape[-1]
    d_v = v.shape[-1]
    block_k = block(d_k)
    block_v = block(d_v)
    n_rows = q.shape[1] * heads
    row_bytes = max(block_k, block_v) * q.element_size()
    most_rows = 128
    n_keys = 64
    if row_bytes > 256:
        most_rows = 32
        n_keys = 32
    return {
        "DK": d_k,
        "DV": d_v,
        "BLOCK_K": block_k,
        "BLOCK_V": block_v,
        "BLOCK_M": block(n_rows, most=most_rows),
        "BLOCK_S": n_keys,
    }


def _splits(q: Tensor, k: Tensor) -> int:
    """How many programs split the keys of one tile of rows.

    Enough to give every processor two programs, each with a few tiles of keys.
    """
    b, t, h, _ = q.shape
    s, g = k.shape[1:3]
    n_tiles = b * g * triton.cdiv(t * h // g, 64)
    splits_wanted = 2 * processors(q.device) // n_tiles
    return max(1, min(splits_wanted, SPLITS, s // 256))


def _problem(
    q: Tensor,
    k: Tensor,
    mask: tuple[int, int, int],
    scale: float,
) -> tuple[Any, ...]:
    """The arguments that every kernel takes after its tensors."""
    t, h = q.shape[1:3]
    s, g = k.shape[1:3]
    first = s + mask[2] - t  # the position of the first query
    return t, s, g, h // g, first, *mask, scale


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: tuple[int, int, int],
    scale: float,
    splits: int,
    length: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output, and the base-2 logarithm of the sum of weights per split, group and row."""
    b, t, h, _ = q.shape
    g = k.shape[2]
    d_v = v.shape[-1]
    n_rows = t * h // g  # of a group
    sizes = _sizes(q, v, h // g)
    whole = q.new_empty(b, t, h, d_v)
    parts = whole[None]
    if splits > 1:
        parts = q.new_empty(splits, b, t, h, d_v, dtype=torch.float32)
    mass_log = q.new_empty(splits, b, g, n_rows, dtype=torch.float32)
    tiles = triton.cdiv(n_rows, sizes["BLOCK_M"])
    forward[tiles * b * g, splits](
        q, k, v, length, parts, mass_log,
        *_problem(q, k, mask, scale),
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *parts.stride()[:4],
        **sizes,
        STEP=length is not None,
        num_warps=8 if sizes["BLOCK_M"] == 128 else 4,
        num_stages=2,
    )  # fmt: skip
    if splits > 1:
        join[(b * t * h,)](
            parts,
            mass_log,
            whole,
            splits,
            t,
            g,
            h // g,
            DV=d_v,
            BLOCK_V=sizes["BLOCK_V"],
            BLOCK_N=block(splits),
        )
    return whole, mass_log


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: tuple[int, int, int],
        scale: float,
    ) -> Any:
        out, mass_log = _attend(q, k, v, mask, scale, 1)
        ctx.save_for_backward(q, k, v, out, mass_log)
        ctx.mask = mask
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        q, k, v, out, mass_log = ctx.saved_tensors
        problem = _problem(q, k, ctx.mask, ctx.scale)
        grads = _gradients(q, k, v, out, d_out.contiguous(), mass_log, problem)
        return *grads, None, None


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    mass_log: Tensor,
    problem: tuple[Any, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; `problem` is that of `_problem`."""
    b, t, h, _ = q.shape
    s, g = k.shape[1:3]
    sizes = _sizes(q, v, h // g)
    sizes["BLOCK_M"] = min(sizes["BLOCK_M"], 64)
    wide = max(sizes["BLOCK_K"], sizes["BLOCK_V"]) > 64
    launch = {
        **sizes,
        "num_warps": 8 if q.element_size() == 2 and wide else 4,
        "num_stages": 1,
    }
    dq = q.new_empty(q.shape)
    dk = k.new_empty(k.shape)
    dv = v.new_empty(v.shape)
    dots = torch.empty_like(mass_log)
    strides = (
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *out.stride()[:3],
    )
    row_tiles = triton.cdiv(t * h // g, sizes["BLOCK_M"])
    backward_q[(row_tiles * b * g,)](
        q, k, v, out, d_out, mass_log, dq, dots,
        *problem,
        *strides,
        *dq.stride()[:3],
        **launch,
    )  # fmt: skip
    key_tiles = triton.cdiv(s, sizes["BLOCK_S"])
    backward_kv[(key_tiles * b * g,)](
        q, k, v, d_out, mass_log, dots, dk, dv,
        *problem,
        *strides,
        *dk.stride()[:3],
        *dv.stride()[:3],
        **launch,
    )  # fmt: skip
    return dq, dk, dv
