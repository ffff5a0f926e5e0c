"""Causal attention with grouped queries, optionally over a window with sinks.

`attention_step` handles a single query over a cache of fixed size. Shape letters: B sequences, T
queries, S keys, H query heads, G key/value heads, Dqk and Dv head widths.
"""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.attention import eager
from kernels.counting import counted
from kernels.shapes import in_words


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int = 0,
    sink: int = 0,
    gap: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention of T queries, at the last T of all positions, over S keys.

    q [B, T, H, Dqk]; k [B, S, G, Dqk]; v [B, S, G, Dv] with G dividing H -> [B, T, H, Dv]. The
    scale is 1/sqrt(Dqk) unless given. With `window`, a query sees the last `window` positions
    (itself included) and the first `sink` ones. k and v may lack `gap` positions between the sinks
    and the rest. Raises ValueError if the shapes do not fit.
    """
    _check(q, k, v, window, gap)
    if scale is None:
        scale = q.shape[-1] ** -0.5
    out: Tensor = dispatch.run(
        "attention",
        _attention,
        q,
        k,
        v,
        window,
        sink,
        gap,
        scale,
    )
    return out


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attention of one query over the first `length` slots of a cache.

    q [B, 1, H, Dqk]; k [B, S, G, Dqk] and v [B, S, G, Dv], which may have a narrower dtype; length,
    a 0-d integer tensor, at most S -> [B, 1, H, Dv]. The value of `length` affects nothing but the
    result, so one CUDA graph, or one compiled step, works for every length. Raises ValueError if
    the shapes do not fit.
    """
    _check(q, k, v, 0, 0)
    if q.shape[1] != 1 or length.shape != () or length.is_floating_point():
        raise ValueError(
            f"attention_step: {in_words(q=q, length=length)} - "
            "one query, and a length that is one integer"
        )
    if scale is None:
        scale = q.shape[-1] ** -0.5
    if torch.compiler.is_compiling():
        # A custom operation, because torch.compile does not trace into it: the length decides what
        # is read.
        out: Tensor = _attention_step(q, k, v, length, scale)
        return out
    return _step(q, k, v, length, scale)


def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    scale: float,
) -> Tensor:
    out: Tensor = dispatch.run(
        "attention_step",
        _attention_step,
        q,
        k,
        v,
        length,
        scale,
    )
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    gap: int,
) -> None:
    b, t, h, d = q.shape
    s, g = k.shape[1:3]
    if k.shape != (b, s, g, d) or v.shape[:3] != (b, s, g):
        raise ValueError(f"attention: {in_words(q=q, k=k, v=v)} do not fit together")
    if h % g or s < t:
        raise ValueError(
            f"attention: {h} query heads over {g} key heads, {t} queries over {s} keys - "
            "heads must divide, keys >= queries"
        )
    if gap and not window:
        raise ValueError("attention: a gap needs a window")


@torch.library.custom_op("hybrid::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    sink: int,
    gap: int,
    scale: float,
) -> Tensor:
    return eager.attention(q, k, v, window, sink, gap, scale)


@_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    sink: int,
    gap: int,
    scale: float,
) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[-1])


def _flops(q, k, v, window, sink, gap, scale):  # type: ignore[no-untyped-def]
    """For every unmasked pair, a dot product with the key and a multiply-add of the value."""
    b, t, h, d = q
    n_positions = k[1] + gap
    span = window + sink if window else n_positions
    pairs = sum(min(seen, span) for seen in range(n_positions - t + 1, n_positions + 1))
    return b * h * pairs * 2 * (d + v[3])


counted(_attention, _flops)


@torch.library.custom_op("hybrid::attention_step", mutates_args=())
def _attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    scale: float,
) -> Tensor:
    return _step(q, k, v, length, scale)


@_attention_step.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    scale: float,
) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[-1])


def _step_flops(q, k, v, length, scale):  # type: ignore[no-untyped-def]
    """All slots count, because the length is not known in advance."""
    b, _, h, d = q
    return b * h * k[1] * 2 * (d + v[3])


counted(_attention_step, _step_flops)
