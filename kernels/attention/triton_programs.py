"""The programs of flash attention and of its backward pass; `triton_kernel.py` launches them."""

import triton
import triton.language as tl

from kernels.tiles import LOG2E, both, dot, store


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
    """The tile (of n) and the group that a program owns.

    The group's number counts through all sequences. It is also returned as sequence and group, in
    64 bits for large strides. Everything is on the grid's first axis: long sequences have too many
    tiles for another axis, and large batches too many groups.
    """
    tiles = tl.cdiv(n, BLOCK)
    tile = tl.program_id(0) % tiles
    bg = tl.program_id(0) // tiles
    return tile, bg, (bg // G).to(tl.int64), (bg % G).to(tl.int64)


@triton.jit
def _head_rows(
    x, start, r, heads, d, T,
    x_t, x_h,
    D: tl.constexpr,
):  # fmt: skip
    """Rows r of a group [r, d]: queries, or a tensor of their shape."""
    there = both(r < T * heads, d < D)
    token = (r // heads).to(tl.int64)
    head = (r % heads).to(tl.int64)
    at = start + token[:, None] * x_t + head[:, None] * x_h + d[None, :]
    return tl.load(x + at, mask=there, other=0.0)


@triton.jit
def _keys(x, start, first, j, d, S, x_t, D: tl.constexpr):
    """Keys or values first + j of a group [j, d]."""
    there = both(first + j < S, d < D)
    at = start + tl.cast(first, tl.int64) * x_t + j[:, None] * x_t + d[None, :]
    return tl.load(x + at, mask=there, other=0.0)


@triton.jit
def _tokens(tile, heads, T, BLOCK_M: tl.constexpr):
    """The first and the last token of a tile of rows."""
    top = tile * BLOCK_M // heads
    bottom = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // heads, T - 1)
    return top, bottom


@triton.jit
def _weights(query, key, seen, log, scale):
    """The softmax of a tile of scores [r, j], from the base-2 logarithm of each row's sum."""
    scores = dot(query, tl.trans(key)) * (scale * LOG2E) - log[:, None]
    return tl.exp2(tl.where(seen, scores, float("-inf")))


@triton.jit
def _over(
    q, total, most, mass, k, v, k_start, v_start,
    token, begin, end,
    T, S, first, window, sink, gap,
    k_t, v_t, scale,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Attend to keys begin .. end - 1 with the online softmax of arXiv 2307.08691, Algorithm 1.

    Carries, per row, the sum of values so far, the largest score in base 2 (`most`), and the sum of
    weights relative to it (`mass`).
    """
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    for left in range(begin, end, BLOCK_S):
        j = tl.arange(0, BLOCK_S)
        key = _keys(k, k_start, left, j, d_k, S, k_t, DK).to(q.dtype)
        score = dot(q, tl.trans(key)) * scale
        seen = _seen(token, left + j, T, S, first, window, sink, gap)
        seen = seen & (left + j < end)[None, :]
        score = tl.where(seen, score, float("-inf"))
        now = tl.maximum(most, tl.max(score, 1))
        base = tl.where(now == float("-inf"), 0.0, now)  # a row that has not seen any key yet
        weight = tl.exp2(score - base[:, None])
        kept = tl.exp2(most - base)  # rescales the sums from the previous largest score
        mass = mass * kept + tl.sum(weight, 1)
        values = _keys(v, v_start, left, j, d_v, S, v_t, DV).to(q.dtype)
        total = total * kept[:, None] + dot(weight.to(values.dtype), values)
        most = now
    return total, most, mass


@triton.jit
def forward(
    q, k, v, length, out, mass_log,
    T, S, G, heads,
    first, window, sink, gap, scale,
    q_b, q_t, q_h,
    k_b, k_t, k_h,
    v_b, v_t, v_h,
    o_s, o_b, o_t, o_h,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one group, over one split of its keys.

    out [splits, b, T, H, DV]; mass_log [splits, b, G, T * heads] in base 2. With STEP, the number
    of keys is read from `length`, so that one captured graph serves every length.
    """
    if STEP:
        S = tl.load(length).to(tl.int32)
        first = S - T
    split = tl.program_id(1)
    tile, bg, batch, group = _tile_and_group(T * heads, G, BLOCK_M)
    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    token = r // heads
    head = group * heads
    q_start = batch * q_b + head * q_h
    query = _head_rows(
        q, q_start, r, heads, d_k, T,
        q_t, q_h,
        DK,
    )  # fmt: skip
    total = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    k_start = batch * k_b + group * k_h
    v_start = batch * v_b + group * v_h
    scale2 = scale * LOG2E
    sinks = tl.minimum(sink, S)
    top, bottom = _tokens(tile, heads, T, BLOCK_M)

    # The first split attends to the sinks. All share the keys that a window of these rows reaches.
    if split == 0:
        total, most, mass = _over(
            query, total, most, mass, k, v, k_start, v_start,
            token, 0, sinks,
            T, S, first, window, sink, gap,
            k_t, v_t, scale2,
            DK, DV, BLOCK_K, BLOCK_V, BLOCK_S,
        )  # fmt: skip
    begin = tl.maximum(first + top - window + 1 - gap, sinks)
    end = tl.minimum(first + bottom + 1 - gap, S)
    n_keys = tl.maximum(end - begin, 0)
    keys_per_split = tl.cdiv(n_keys, tl.num_programs(1) * BLOCK_S) * BLOCK_S
    split_begin = begin + split * keys_per_split
    split_end = tl.minimum(begin + (split + 1) * keys_per_split, end)
    total, most, mass = _over(
        query, total, most, mass, k, v, k_start, v_start,
        token, split_begin, split_end,
        T, S, first, window, sink, gap,
        k_t, v_t, scale2,
        DK, DV, BLOCK_K, BLOCK_V, BLOCK_S,
    )  # fmt: skip

    # A row without any key in this split has no mass: its output is 0 and its logarithm -inf.
    empty = mass == 0.0
    divisor = tl.where(empty, 1.0, mass)
    at = (
        split.to(tl.int64) * o_s
        + batch * o_b
        + token.to(tl.int64)[:, None] * o_t
        + (head + r % heads)[:, None] * o_h
        + d_v[None, :]
    )
    there = both(r < T * heads, d_v < DV)
    store(out + at, total / divisor[:, None], there)
    log = tl.where(empty, float("-inf"), most + tl.log2(divisor))
    n_groups = tl.num_programs(0) // tl.cdiv(T * heads, BLOCK_M)  # of all sequences
    row = (split * n_groups + bg).to(tl.int64) * (T * heads) + r
    tl.store(mass_log + row, log, mask=r < T * heads)


@triton.jit
def join(
    parts, mass_log, out,
    n, T, G, heads,
    DV: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One row of all n splits: their outputs, each weighted by its share of the mass."""
    row = tl.program_id(0).to(tl.int64)  # b, T, G, heads
    n_rows = tl.num_programs(0)
    s = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_V)
    head = row % heads
    group = row // heads % G
    token = row // (heads * G) % T
    batch = row // (heads * G * T)
    mass_row = ((batch * G + group) * T + token) * heads + head
    log = tl.load(
        mass_log + s * n_rows + mass_row,
        mask=s < n,
        other=float("-inf"),
    )
    share = tl.exp2(log - tl.max(log, 0))
    at = parts + s[:, None] * (n_rows * DV) + row * DV + d[None, :]
    there = both(s < n, d < DV)
    part = tl.load(at, mask=there, other=0.0)
    total = tl.sum(part * share[:, None], 0) / tl.sum(share, 0)
    store(out + row * DV + d, total, d < DV)


@triton.jit
def backward_q(
    q, k, v, out, d_out, mass_log, dq, dots,
    T, S, G, heads,
    first, window, sink, gap, scale,
    q_b, q_t, q_h,
    k_b, k_t, k_h,
    v_b, v_t, v_h,
    o_b, o_t, o_h,
    dq_b, dq_t, dq_h,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries, and each row's product of out and its gradient (`dots`).

    `backward_kv` needs the products, too: D of arXiv 2307.08691, Algorithm 2.
    """
    tile, bg, batch, group = _tile_and_group(T * heads, G, BLOCK_M)
    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_S)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    token = r // heads
    head = group * heads
    query = _head_rows(
        q, batch * q_b + head * q_h, r, heads, d_k, T,
        q_t, q_h,
        DK,
    )  # fmt: skip
    o_start = batch * o_b + head * o_h
    grad = _head_rows(
        d_out, o_start, r, heads, d_v, T,
        o_t, o_h,
        DV,
    )  # fmt: skip
    held = _head_rows(
        out, o_start, r, heads, d_v, T,
        o_t, o_h,
        DV,
    )  # fmt: skip
    product = tl.sum(grad.to(tl.float32) * held.to(tl.float32), 1)
    row = bg.to(tl.int64) * (T * heads) + r
    tl.store(dots + row, product, mask=r < T * heads)
    log = tl.load(mass_log + row, mask=r < T * heads, other=0.0)

    # Tiles of keys: first those of the sinks, then those that a window of these rows reaches.
    sinks = tl.minimum(sink, S)
    top, bottom = _tokens(tile, heads, T, BLOCK_M)
    window_begins = tl.maximum(first + top - window + 1 - gap, sinks)
    end = tl.minimum(first + bottom + 1 - gap, S)
    sink_tiles = tl.cdiv(sinks, BLOCK_S)
    window_tiles = tl.cdiv(tl.maximum(end - window_begins, 0), BLOCK_S)
    k_start = batch * k_b + group * k_h
    v_start = batch * v_b + group * v_h
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    for i in range(0, sink_tiles + window_tiles):
        in_window = window_begins + (i - sink_tiles) * BLOCK_S
        left = tl.where(i < sink_tiles, i * BLOCK_S, in_window)
        stop = tl.where(i < sink_tiles, sinks, end)
        key = _keys(k, k_start, left, j, d_k, S, k_t, DK)
        value = _keys(v, v_start, left, j, d_v, S, v_t, DV)
        seen = _seen(token, left + j, T, S, first, window, sink, gap)
        seen = seen & (left + j < stop)[None, :]
        weight = _weights(query, key, seen, log, scale)
        d_weight = dot(grad, tl.trans(value))
        d_score = weight * (d_weight - product[:, None])
        total += dot(d_score.to(key.dtype), key)
    at = (
        batch * dq_b
        + token.to(tl.int64)[:, None] * dq_t
        + (head + r % heads)[:, None] * dq_h
        + d_k[None, :]
    )
    there = both(r < T * heads, d_k < DK)
    store(dq + at, total * scale, there)


@triton.jit
def backward_kv(
    q, k, v, d_out, mass_log, dots, dk, dv,
    T, S, G, heads,
    first, window, sink, gap, scale,
    q_b, q_t, q_h,
    k_b, k_t, k_h,
    v_b, v_t, v_h,
    o_b, o_t, o_h,
    dk_b, dk_t, dk_h,
    dv_b, dv_t, dv_h,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all rows of its group that see any of them."""
    tile, bg, batch, group = _tile_and_group(S, G, BLOCK_S)
    left = tile * BLOCK_S
    j = tl.arange(0, BLOCK_S)
    d_k = tl.arange(0, BLOCK_K)
    d_v = tl.arange(0, BLOCK_V)
    key = _keys(k, batch * k_b + group * k_h, left, j, d_k, S, k_t, DK)
    value = _keys(v, batch * v_b + group * v_h, left, j, d_v, S, v_t, DV)
    d_key = tl.zeros([BLOCK_S, BLOCK_K], tl.float32)
    d_value = tl.zeros([BLOCK_S, BLOCK_V], tl.float32)

    # Tokens opening .. closing - 1 see at least one of these keys. A sink is seen by all tokens
    # after it.
    last = tl.minimum(left + BLOCK_S, S) - 1
    gap_before = tl.where(left < sink, 0, gap)
    opening = tl.maximum(left + gap_before - first, 0)
    window_ends = tl.minimum(last + gap + window - first, T)
    closing = tl.where(left < sink, T, window_ends)
    q_start = batch * q_b + group * heads * q_h
    o_start = batch * o_b + group * heads * o_h
    first_tile = opening * heads // BLOCK_M * BLOCK_M
    for top in range(first_tile, closing * heads, BLOCK_M):
        r = top + tl.arange(0, BLOCK_M)
        query = _head_rows(
            q, q_start, r, heads, d_k, T,
            q_t, q_h,
            DK,
        )  # fmt: skip
        grad = _head_rows(
            d_out, o_start, r, heads, d_v, T,
            o_t, o_h,
            DV,
        )  # fmt: skip
        row = bg.to(tl.int64) * (T * heads) + r
        log = tl.load(mass_log + row, mask=r < T * heads, other=0.0)
        product = tl.load(dots + row, mask=r < T * heads, other=0.0)
        seen = _seen(r // heads, left + j, T, S, first, window, sink, gap)
        weight = _weights(query, key, seen, log, scale)
        d_value += dot(tl.trans(weight.to(grad.dtype)), grad)
        d_weight = dot(grad, tl.trans(value))
        d_score = weight * (d_weight - product[:, None])
        d_key += dot(tl.trans(d_score.to(query.dtype)), query)
    row = (left + j).to(tl.int64)[:, None]
    store(
        dk + batch * dk_b + row * dk_t + group * dk_h + d_k[None, :],
        d_key * scale,
        both(left + j < S, d_k < DK),
    )
    store(
        dv + batch * dv_b + row * dv_t + group * dv_h + d_v[None, :],
        d_value,
        both(left + j < S, d_v < DV),
    )
