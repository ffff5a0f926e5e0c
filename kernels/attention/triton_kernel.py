"""Flash attention with grouped queries, window, sinks and gap: tiles of scores that never leave the
chip (arXiv 2307.08691).

The query heads that share a key head stand one after the other as rows: row r of a group is token r
// heads, head r % heads. So keys and values are read once for all of them, one query (decode) fills
a tile as well as it can, and gradients of keys and values need no sum over heads. Tiles of keys
that no row of a tile sees, between the sinks and the window or after the last row, are skipped.

Where rows are few the keys are split among programs, and what these found is weighed and added by a
second kernel."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import TRITON_DTYPES
from kernels.tiles import LOG2E, block, dot, processors, rows

WIDEST = 256  # channels of a head
SPLITS = 64  # of the keys, at most, and a power of two


@triton.jit
def _seen(token, j, T, S, first, window, sink, gap):
    """Which tokens see which keys; key j stands at position j, or j + gap after the sinks, and
    token t at first + t."""
    here, there = first + token[:, None], (j + tl.where(j < sink, 0, gap))[None, :]
    return (
        (there <= here)
        & ((there > here - window) | (there < sink))
        & (j < S)[None, :]
        & (token < T)[:, None]
    )


@triton.jit
def _tile_and_group(n, G, BLOCK: tl.constexpr):
    """What a program owns: a tile of n rows, and a group, counted through all sequences and also as
    batch and group, these in 64 bits for large strides. All stand on the grid's first axis: long
    sequences have too many tiles for another one, large batches too many groups."""
    tiles = tl.cdiv(n, BLOCK)
    tile, bg = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    return tile, bg, (bg // G).to(tl.int64), (bg % G).to(tl.int64)


@triton.jit
def _head_rows(x, start, r, heads, d, T, x_t, x_h, D: tl.constexpr):
    """Rows r of a group: queries, or what has their shape."""
    there = (r < T * heads)[:, None] & (d < D)[None, :]
    token, head = (r // heads).to(tl.int64), (r % heads).to(tl.int64)
    return tl.load(
        x + start + token[:, None] * x_t + head[:, None] * x_h + d[None, :], mask=there, other=0.0
    )


@triton.jit
def _keys(x, start, first, j, d, S, x_t, D: tl.constexpr):
    """Keys or values first + j."""
    there = (first + j < S)[:, None] & (d < D)[None, :]
    return tl.load(
        x + start + tl.cast(first, tl.int64) * x_t + j[:, None] * x_t + d[None, :],
        mask=there,
        other=0.0,
    )


@triton.jit
def _over(
    q, total, most, mass, k, v, k_start, v_start, token, begin, end, T, S, first, window, sink, gap, k_t, v_t, scale,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Attend to keys begin .. end - 1: the sum of values so far, the largest score in base 2 and
    the sum of weights relative to it."""
    d_k, d_v = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    for left in range(begin, end, BLOCK_S):
        j = tl.arange(0, BLOCK_S)
        score = dot(q, tl.trans(_keys(k, k_start, left, j, d_k, S, k_t, DK).to(q.dtype))) * scale
        seen = _seen(token, left + j, T, S, first, window, sink, gap) & (left + j < end)[None, :]
        score = tl.where(seen, score, float("-inf"))
        now = tl.maximum(most, tl.max(score, 1))
        base = tl.where(now == float("-inf"), 0.0, now)  # a row that has seen nothing yet
        weight = tl.exp2(score - base[:, None])
        kept = tl.exp2(most - base)
        mass = mass * kept + tl.sum(weight, 1)
        values = _keys(v, v_start, left, j, d_v, S, v_t, DV).to(q.dtype)
        total = total * kept[:, None] + dot(weight.to(values.dtype), values)
        most = now
    return total, most, mass


@triton.jit
def _forward(
    q, k, v, length, out, mass_log, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_s, o_b, o_t, o_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one group and one split of its keys: out [splits, b, T, H, DV], mass_log
    [splits, b, G, T * heads] in base 2.

    With STEP the number of keys lies at `length`, so that a graph that was captured once serves
    every length."""
    if STEP:
        S = tl.load(length).to(tl.int32)
        first = S - T
    split = tl.program_id(1)
    tile, bg, batch, group = _tile_and_group(T * heads, G, BLOCK_M)
    r, d_k, d_v = (
        tile * BLOCK_M + tl.arange(0, BLOCK_M),
        tl.arange(0, BLOCK_K),
        tl.arange(0, BLOCK_V),
    )
    token = r // heads
    query = _head_rows(q, batch * q_b + group * heads * q_h, r, heads, d_k, T, q_t, q_h, DK)
    total, mass = tl.zeros([BLOCK_M, BLOCK_V], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    k_start, v_start, scale2 = batch * k_b + group * k_h, batch * v_b + group * v_h, scale * LOG2E
    sinks = tl.minimum(sink, S)
    top = tile * BLOCK_M // heads
    bottom = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // heads, T - 1)
    if split == 0:
        total, most, mass = _over(
            query, total, most, mass, k, v, k_start, v_start, token, 0, sinks, T, S, first, window, sink, gap, k_t, v_t, scale2,
            DK, DV, BLOCK_K, BLOCK_V, BLOCK_S,
        )  # fmt: skip
    begin = tl.maximum(first + top - window + 1 - gap, sinks)
    end = tl.minimum(first + bottom + 1 - gap, S)
    each = tl.cdiv(tl.maximum(end - begin, 0), tl.num_programs(1) * BLOCK_S) * BLOCK_S
    total, most, mass = _over(
        query, total, most, mass, k, v, k_start, v_start, token, begin + split * each, tl.minimum(begin + (split + 1) * each, end),
        T, S, first, window, sink, gap, k_t, v_t, scale2, DK, DV, BLOCK_K, BLOCK_V, BLOCK_S,
    )  # fmt: skip
    at = (
        split.to(tl.int64) * o_s
        + batch * o_b
        + token.to(tl.int64)[:, None] * o_t
        + (group * heads + r % heads)[:, None] * o_h
        + d_v[None, :]
    )
    total = total / tl.where(mass == 0.0, 1.0, mass)[:, None]
    tl.store(
        out + at,
        total.to(out.dtype.element_ty),
        mask=(r < T * heads)[:, None] & (d_v < DV)[None, :],
    )
    log = tl.where(mass == 0.0, float("-inf"), most + tl.log2(tl.where(mass == 0.0, 1.0, mass)))
    n_groups = tl.num_programs(0) // tl.cdiv(T * heads, BLOCK_M)  # of all sequences
    row = (split * n_groups + bg).to(tl.int64) * (T * heads) + r
    tl.store(mass_log + row, log, mask=r < T * heads)


@triton.jit
def _join(
    parts,
    mass_log,
    out,
    n,
    T,
    G,
    heads,
    DV: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One row of all splits: their outputs, each weighed by its share of the mass."""
    row = tl.program_id(0).to(tl.int64)  # b, T, G, heads
    s, d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_V)
    head, group, token, batch = (
        row % heads,
        row // heads % G,
        row // (heads * G) % T,
        row // (heads * G * T),
    )
    log = tl.load(
        mass_log + s * tl.num_programs(0) + ((batch * G + group) * T + token) * heads + head,
        mask=s < n,
        other=float("-inf"),
    )
    share = tl.exp2(log - tl.max(log, 0))
    at = parts + s[:, None] * (tl.num_programs(0) * DV) + row * DV + d[None, :]
    part = tl.load(at, mask=(s < n)[:, None] & (d < DV)[None, :], other=0.0)
    total = tl.sum(part * share[:, None], 0) / tl.sum(share, 0)
    tl.store(out + row * DV + d, total.to(out.dtype.element_ty), mask=d < DV)


@triton.jit
def _backward_q(
    q, k, v, out, d_out, mass_log, dq, dots, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_b, o_t, o_h, dq_b, dq_t, dq_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of rows, and each row's product of out and its gradient, which
    `_backward_kv` needs too."""
    tile, bg, batch, group = _tile_and_group(T * heads, G, BLOCK_M)
    r, j, d_k, d_v = (
        tile * BLOCK_M + tl.arange(0, BLOCK_M),
        tl.arange(0, BLOCK_S),
        tl.arange(0, BLOCK_K),
        tl.arange(0, BLOCK_V),
    )
    token, head = r // heads, group * heads
    query = _head_rows(q, batch * q_b + head * q_h, r, heads, d_k, T, q_t, q_h, DK)
    grad = _head_rows(d_out, batch * o_b + head * o_h, r, heads, d_v, T, o_t, o_h, DV)
    held = _head_rows(out, batch * o_b + head * o_h, r, heads, d_v, T, o_t, o_h, DV)
    product = tl.sum(grad.to(tl.float32) * held.to(tl.float32), 1)
    row = bg.to(tl.int64) * (T * heads) + r
    tl.store(dots + row, product, mask=r < T * heads)
    log = tl.load(mass_log + row, mask=r < T * heads, other=0.0)
    sinks = tl.minimum(sink, S)
    top = tile * BLOCK_M // heads
    bottom = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // heads, T - 1)
    window_begins = tl.maximum(first + top - window + 1 - gap, sinks)
    end = tl.minimum(first + bottom + 1 - gap, S)
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    sink_tiles = tl.cdiv(sinks, BLOCK_S)
    for i in range(0, sink_tiles + tl.cdiv(tl.maximum(end - window_begins, 0), BLOCK_S)):
        left = tl.where(i < sink_tiles, i * BLOCK_S, window_begins + (i - sink_tiles) * BLOCK_S)
        stop = tl.where(i < sink_tiles, sinks, end)
        key = _keys(k, batch * k_b + group * k_h, left, j, d_k, S, k_t, DK)
        value = _keys(v, batch * v_b + group * v_h, left, j, d_v, S, v_t, DV)
        seen = _seen(token, left + j, T, S, first, window, sink, gap) & (left + j < stop)[None, :]
        weight = tl.exp2(
            tl.where(
                seen, dot(query, tl.trans(key)) * (scale * LOG2E) - log[:, None], float("-inf")
            )
        )
        d_score = weight * (dot(grad, tl.trans(value)) - product[:, None])
        total += dot(d_score.to(key.dtype), key)
    at = (
        batch * dq_b
        + token.to(tl.int64)[:, None] * dq_t
        + (head + r % heads)[:, None] * dq_h
        + d_k[None, :]
    )
    tl.store(
        dq + at,
        (total * scale).to(dq.dtype.element_ty),
        mask=(r < T * heads)[:, None] & (d_k < DK)[None, :],
    )


@triton.jit
def _backward_kv(
    q, k, v, d_out, mass_log, dots, dk, dv, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_b, o_t, o_h, dk_b, dk_t, dk_h, dv_b, dv_t, dv_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all rows of its group that can see one of
    them."""
    tile, bg, batch, group = _tile_and_group(S, G, BLOCK_S)
    left = tile * BLOCK_S
    j, d_k, d_v = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    key = _keys(k, batch * k_b + group * k_h, left, j, d_k, S, k_t, DK)
    value = _keys(v, batch * v_b + group * v_h, left, j, d_v, S, v_t, DV)
    d_key, d_value = (
        tl.zeros([BLOCK_S, BLOCK_K], tl.float32),
        tl.zeros([BLOCK_S, BLOCK_V], tl.float32),
    )
    last = tl.minimum(left + BLOCK_S, S) - 1
    opening = tl.maximum(left + tl.where(left < sink, 0, gap) - first, 0)
    closing = tl.where(
        left < sink, T, tl.minimum(last + gap + window - first, T)
    )  # the first token that sees none of them again
    for top in range(opening * heads // BLOCK_M * BLOCK_M, closing * heads, BLOCK_M):
        r = top + tl.arange(0, BLOCK_M)
        query = _head_rows(q, batch * q_b + group * heads * q_h, r, heads, d_k, T, q_t, q_h, DK)
        grad = _head_rows(d_out, batch * o_b + group * heads * o_h, r, heads, d_v, T, o_t, o_h, DV)
        row = bg.to(tl.int64) * (T * heads) + r
        log = tl.load(mass_log + row, mask=r < T * heads, other=0.0)
        product = tl.load(dots + row, mask=r < T * heads, other=0.0)
        seen = _seen(r // heads, left + j, T, S, first, window, sink, gap)
        weight = tl.exp2(
            tl.where(
                seen, dot(query, tl.trans(key)) * (scale * LOG2E) - log[:, None], float("-inf")
            )
        )
        d_value += dot(tl.trans(weight.to(grad.dtype)), grad)
        d_score = weight * (dot(grad, tl.trans(value)) - product[:, None])
        d_key += dot(tl.trans(d_score.to(query.dtype)), query)
    at = (left + j).to(tl.int64)[:, None]
    there = (left + j < S)[:, None]
    tl.store(
        dk + batch * dk_b + at * dk_t + group * dk_h + d_k[None, :],
        (d_key * scale).to(dk.dtype.element_ty),
        mask=there & (d_k < DK)[None, :],
    )
    tl.store(
        dv + batch * dv_b + at * dv_t + group * dv_h + d_v[None, :],
        d_value.to(dv.dtype.element_ty),
        mask=there & (d_v < DV)[None, :],
    )


def attention_limit(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> str | None:
    """Why these arguments are too much for the kernels, if so."""
    widest = max(q.shape[-1], v.shape[-1])
    return (
        f"heads {widest} wide, and {WIDEST} is the most that a program can hold"
        if widest > WIDEST
        else None
    )


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, sink: int, gap: int, scale: float
) -> Tensor:
    """See `kernels.attention`."""
    q, k, v = rows(q), rows(k), rows(v)
    mask = (window, sink, gap) if window else (k.shape[1], 0, 0)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        out: Tensor = _Attention.apply(q, k, v, mask, scale)
        return out
    return _attend(q, k, v, mask, scale, _splits(q, k))[0]


attention_step_limit = attention_limit


def attention_step(q: Tensor, k: Tensor, v: Tensor, length: Tensor, scale: float) -> Tensor:
    """See `kernels.attention.attention_step`. Splits are those of a full cache; each takes its
    share of the keys that there are.

    A cache in bf16 or fp16 is read as it is, one in float8 is converted first."""
    q = rows(q)
    k, v = (rows(x if x.dtype in TRITON_DTYPES else x.to(q.dtype)) for x in (k, v))
    return _attend(q, k, v, (k.shape[1], 0, 0), scale, _splits(q, k), length)[0]


def _sizes(q: Tensor, v: Tensor, heads: int) -> dict[str, int]:
    """Widths and tiles, at which little spills: see tests/kernels/compile_for_h100.py."""
    d_k, d_v = q.shape[-1], v.shape[-1]
    block_k, block_v = block(d_k), block(d_v)
    large = max(block_k, block_v) * q.element_size()
    most = 128 if large <= 256 else 32
    tiles = {
        "BLOCK_M": block(q.shape[1] * heads, most=most),
        "BLOCK_S": block(q.shape[1] * 4, 32 if large > 256 else 64, min(most, 64)),
    }
    return {"DK": d_k, "DV": d_v, "BLOCK_K": block_k, "BLOCK_V": block_v, **tiles}


def _splits(q: Tensor, k: Tensor) -> int:
    """Programs that share the keys of one tile of rows: so many that every processor has two, each
    with a few tiles of keys."""
    (b, t, h, _), (s, g) = q.shape, k.shape[1:3]
    idle = 2 * processors(q.device) // (b * g * triton.cdiv(t * h // g, 64))
    return max(1, min(idle, SPLITS, s // 256))


def _problem(q: Tensor, k: Tensor, mask: tuple[int, int, int], scale: float) -> tuple[Any, ...]:
    """What every kernel takes after its tensors."""
    (t, h), (s, g) = q.shape[1:3], k.shape[1:3]
    return t, s, g, h // g, s + mask[2] - t, *mask, scale


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: tuple[int, int, int], scale: float, splits: int, length: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output, and for each split, group and row the logarithm of its sum of weights in base
    2."""
    (b, t, h, _), g, d_v = q.shape, k.shape[2], v.shape[-1]
    sizes, whole = _sizes(q, v, h // g), q.new_empty(b, t, h, d_v)
    parts = whole[None] if splits == 1 else q.new_empty(splits, b, t, h, d_v, dtype=torch.float32)
    mass_log = q.new_empty(splits, b, g, t * h // g, dtype=torch.float32)
    _forward[triton.cdiv(t * h // g, sizes["BLOCK_M"]) * b * g, splits](
        q, k, v, length, parts, mass_log, *_problem(q, k, mask, scale),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *parts.stride()[:4],
        **sizes, STEP=length is not None, num_warps=8 if sizes["BLOCK_M"] == 128 else 4, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _join[(b * t * h,)](
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
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: tuple[int, int, int], scale: float
    ) -> Any:
        out, mass_log = _attend(q, k, v, mask, scale, 1)
        ctx.save_for_backward(q, k, v, out, mass_log)
        ctx.mask, ctx.scale = mask, scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        q, k, v, out, mass_log = ctx.saved_tensors
        (b, t, h, _), (s, g), d_out = q.shape, k.shape[1:3], d_out.contiguous()
        sizes, problem = _sizes(q, v, h // g), _problem(q, k, ctx.mask, ctx.scale)
        sizes["BLOCK_M"] = min(sizes["BLOCK_M"], 64)
        dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
        dots = mass_log.new_empty(mass_log.shape)
        warps = 8 if q.element_size() == 2 and max(sizes["BLOCK_K"], sizes["BLOCK_V"]) > 64 else 4
        strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]
        _backward_q[(triton.cdiv(t * h // g, sizes["BLOCK_M"]) * b * g,)](
            q,
            k,
            v,
            out,
            d_out,
            mass_log,
            dq,
            dots,
            *problem,
            *strides,
            *dq.stride()[:3],
            **sizes,
            num_warps=warps,
            num_stages=1,
        )
        _backward_kv[(triton.cdiv(s, sizes["BLOCK_S"]) * b * g,)](
            q,
            k,
            v,
            d_out,
            mass_log,
            dots,
            dk,
            dv,
            *problem,
            *strides,
            *dk.stride()[:3],
            *dv.stride()[:3],
            **sizes,
            num_warps=warps,
            num_stages=1,
        )
        return dq, dk, dv, None, None
