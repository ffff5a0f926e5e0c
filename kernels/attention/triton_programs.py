"""The programs of flash attention and of its backward pass; `triton_kernel.py` launches them."""

import triton
import triton.language as tl

from kernels.tiles import LOG2E, dot


@triton.jit
def _seen(token, j, T, S, first, window, sink, gap):
    """Which tokens see which keys.

    Key j has position j, or j + gap after the sinks; token t has position first + t.
    """
    here = first + token[:, None]
    there = (j + tl.where(j < sink, 0, gap))[None, :]
    return (
        (there <= here)
        & ((there > here - window) | (there < sink))
        & (j < S)[None, :]
        & (token < T)[:, None]
    )


@triton.jit
def _tile_and_group(n, G, BLOCK: tl.constexpr):
    """What a program owns: a tile of n rows, and a group.

    The group is counted through all sequences, and given as batch and group, too, in 64 bits for
    large strides. All are on the grid's first axis: long sequences have too many tiles for another
    axis, and large batches too many groups.
    """
    tiles = tl.cdiv(n, BLOCK)
    tile = tl.program_id(0) % tiles
    bg = tl.program_id(0) // tiles
    return tile, bg, (bg // G).to(tl.int64), (bg % G).to(tl.int64)


@triton.jit
def _head_rows(x, start, r, heads, d, T, x_t, x_h, D: tl.constexpr):
    """Rows r of a group: queries, or what has their shape."""
    there = (r < T * heads)[:, None] & (d < D)[None, :]
    token = (r // heads).to(tl.int64)
    head = (r % heads).to(tl.int64)
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
    q, total, most, mass, k, v, k_start, v_start, token, begin, end, T, S, first, window, sink, gap,
    k_t, v_t, scale,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Attend to keys begin .. end - 1.

    Carries the sum of values so far, the largest score in base 2, and the sum of weights relative
    to it.
    """
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
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
def forward(
    q, k, v, length, out, mass_log, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_s, o_b, o_t, o_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
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
    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    token = r // heads
    query = _head_rows(
        q,
        batch * q_b + group * heads * q_h,
        r,
        heads,
        d_k,
        T,
        q_t,
        q_h,
        DK,
    )
    total = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    k_start = batch * k_b + group * k_h
    v_start = batch * v_b + group * v_h
    scale2 = scale * LOG2E
    sinks = tl.minimum(sink, S)
    top = tile * BLOCK_M // heads
    bottom = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // heads, T - 1)
    if split == 0:
        total, most, mass = _over(
            query, total, most, mass, k, v, k_start, v_start, token, 0, sinks, T, S, first, window,
            sink, gap, k_t, v_t, scale2,
            DK, DV, BLOCK_K, BLOCK_V, BLOCK_S,
        )  # fmt: skip
    begin = tl.maximum(first + top - window + 1 - gap, sinks)
    end = tl.minimum(first + bottom + 1 - gap, S)
    each = tl.cdiv(tl.maximum(end - begin, 0), tl.num_programs(1) * BLOCK_S) * BLOCK_S
    total, most, mass = _over(
        query, total, most, mass, k, v, k_start, v_start, token, begin + split * each,
        tl.minimum(begin + (split + 1) * each, end),
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
    log = tl.where(
        mass == 0.0,
        float("-inf"),
        most + tl.log2(tl.where(mass == 0.0, 1.0, mass)),
    )
    n_groups = tl.num_programs(0) // tl.cdiv(T * heads, BLOCK_M)  # of all sequences
    row = (split * n_groups + bg).to(tl.int64) * (T * heads) + r
    tl.store(mass_log + row, log, mask=r < T * heads)


@triton.jit
def join(
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
    s = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_V)
    head = row % heads
    group = row // heads % G
    token = row // (heads * G) % T
    batch = row // (heads * G * T)
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
def backward_q(
    q, k, v, out, d_out, mass_log, dq, dots, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_b, o_t, o_h, dq_b, dq_t, dq_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of rows, and each row's product of out and its gradient, which
    `_backward_kv` needs too."""
    tile, bg, batch, group = _tile_and_group(T * heads, G, BLOCK_M)
    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_S)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    token = r // heads
    head = group * heads
    query = _head_rows(
        q,
        batch * q_b + head * q_h,
        r,
        heads,
        d_k,
        T,
        q_t,
        q_h,
        DK,
    )
    grad = _head_rows(
        d_out,
        batch * o_b + head * o_h,
        r,
        heads,
        d_v,
        T,
        o_t,
        o_h,
        DV,
    )
    held = _head_rows(
        out,
        batch * o_b + head * o_h,
        r,
        heads,
        d_v,
        T,
        o_t,
        o_h,
        DV,
    )
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
        left = tl.where(
            i < sink_tiles,
            i * BLOCK_S,
            window_begins + (i - sink_tiles) * BLOCK_S,
        )
        stop = tl.where(i < sink_tiles, sinks, end)
        key = _keys(
            k,
            batch * k_b + group * k_h,
            left,
            j,
            d_k,
            S,
            k_t,
            DK,
        )
        value = _keys(
            v,
            batch * v_b + group * v_h,
            left,
            j,
            d_v,
            S,
            v_t,
            DV,
        )
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
def backward_kv(
    q, k, v, d_out, mass_log, dots, dk, dv, T, S, G, heads, first, window, sink, gap, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, o_b, o_t, o_h, dk_b, dk_t, dk_h, dv_b, dv_t, dv_h,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all rows of its group that can see one of
    them."""
    tile, bg, batch, group = _tile_and_group(S, G, BLOCK_S)
    left = tile * BLOCK_S
    j = tl.arange(0, BLOCK_S)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    key = _keys(k, batch * k_b + group * k_h, left, j, d_k, S, k_t, DK)
    value = _keys(
        v,
        batch * v_b + group * v_h,
        left,
        j,
        d_v,
        S,
        v_t,
        DV,
    )
    d_key = tl.zeros([BLOCK_S, BLOCK_K], tl.float32)
    d_value = tl.zeros([BLOCK_S, BLOCK_V], tl.float32)
    last = tl.minimum(left + BLOCK_S, S) - 1
    opening = tl.maximum(left + tl.where(left < sink, 0, gap) - first, 0)
    closing = tl.where(
        left < sink, T, tl.minimum(last + gap + window - first, T)
    )  # the first token that sees none of them again
    for top in range(opening * heads // BLOCK_M * BLOCK_M, closing * heads, BLOCK_M):
        r = top + tl.arange(0, BLOCK_M)
        query = _head_rows(
            q,
            batch * q_b + group * heads * q_h,
            r,
            heads,
            d_k,
            T,
            q_t,
            q_h,
            DK,
        )
        grad = _head_rows(
            d_out,
            batch * o_b + group * heads * o_h,
            r,
            heads,
            d_v,
            T,
            o_t,
            o_h,
            DV,
        )
        row = bg.to(tl.int64) * (T * heads) + r
        log = tl.load(mass_log + row, mask=r < T * heads, other=0.0)
        product = tl.load(dots + row, mask=r < T * heads, other=0.0)
        seen = _seen(
            r // heads,
            left + j,
            T,
            S,
            first,
            window,
            sink,
            gap,
        )
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
