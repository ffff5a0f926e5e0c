"""What the Triton kernels share: matrix products of tiles, activations, block sizes. Imported only
where Triton is installed."""

import math
import os
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# The interpreter multiplies the bits of bfloat16 as if they were integers, so tiles are widened
# there; products of bfloat16 are exact in float32, so it computes what the tensor cores do.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# Of float32 products: three tf32 products on the tensor cores keep about float32's precision
# (Triton's default, one, keeps 10 bits); "ieee" would leave the tensor cores, and spills thousands
# of registers.
PRECISION = tl.constexpr("tf32x3")

LOG2E = tl.constexpr(math.log2(math.e))
SMS = 132  # streaming multiprocessors taken for granted where there is no device to ask


@triton.jit
def dot(a, b):
    """a [m, k] @ b [k, n], summed in float32; both in one dtype."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to float32's full precision also where exp(x) is small (Kahan's log1p)."""
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x > 20.0, x, log1p)


@triton.jit
def silu(x):
    """x sigmoid(x), of a float32 tile."""
    return x * tl.sigmoid(x)


@triton.jit
def silu_slope(x):
    """The derivative of `silu`."""
    s = tl.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


# CUDA's limit of the second and third axes of a grid; the first may have 2^31 - 1. So what can be
# large - sequences times heads, tiles of a long sequence - stands on the first.
MOST_PROGRAMS = 65_535


def too_many(what: str, n: int) -> str | None:
    """Why a grid cannot have `n` programs along its second or third axis, if so."""
    return (
        f"{n:,} {what}, and a grid's axis has {MOST_PROGRAMS:,} programs at most"
        if n > MOST_PROGRAMS
        else None
    )


def block(n: int, least: int = 16, most: int | None = None) -> int:
    """The width of a tile that covers n: a power of two from `least` (16 is a matrix product's
    smallest) to `most`."""
    size = max(least, triton.next_power_of_2(n))
    return size if most is None else min(size, most)


@torch.compiler.assume_constant_result
@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    return (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else SMS
    )


def rows(x: Tensor) -> Tensor:
    """x itself where its last axis lies in memory without gaps, as the kernels read it, else a
    copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
