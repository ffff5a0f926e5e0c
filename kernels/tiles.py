"""Helpers that the Triton kernels share: matrix products of tiles, activations, block sizes.

Import this only if Triton is installed.
"""

import math
import os
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.compiled import constant_in_graph

# The interpreter multiplies the bits of bfloat16 as if they were integers, so tiles are widened
# there. Products of bfloat16 are exact in float32, so the result matches the tensor cores.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# The precision of float32 products. Three tf32 products on the tensor cores keep about float32's
# precision; Triton's default, a single one, keeps 10 bits. "ieee" does not use the tensor cores,
# and spills thousands of registers.
PRECISION = tl.constexpr("tf32x3")

LOG2E = tl.constexpr(math.log2(math.e))
SMS = 132  # streaming multiprocessors assumed if there is no device to query


@triton.jit
def load(at, there):
    """The elements at the pointers `at` in float32, or 0 where `there` is false."""
    return tl.load(at, mask=there, other=0.0).to(tl.float32)


@triton.jit
def store(at, value, there):
    """Write `value` to the pointers `at` where `there` is true, in the dtype of the memory."""
    tl.store(at, value.to(at.dtype.element_ty), mask=there)


@triton.jit
def both(rows, columns):
    """The mask of a tile, true where its row and its column are: [m] and [n] -> [m, n]."""
    return rows[:, None] & columns[None, :]


@triton.jit
def batch_and_head(bh, H):
    """The sequence and the head for head number `bh`, counted through all sequences.

    They have 64 bits, because they are multiplied by strides.
    """
    return (bh // H).to(tl.int64), (bh % H).to(tl.int64)


@triton.jit
def dot(a, b):
    """a [m, k] @ b [k, n], summed in float32; both in one dtype."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) in full float32 precision, even where exp(x) is small (Kahan's log1p)."""
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    # e / (u - 1) undoes the rounding of u. Where u rounds to 1, log(1 + e) is e.
    correction = e / tl.where(u == 1.0, 1.0, u - 1.0)
    log1p = tl.where(u == 1.0, e, tl.log(u) * correction)
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


# CUDA's limit for the second and third axis of a grid; the first may have 2^31 - 1 programs. So
# dimensions that can be large go on the first axis: sequences times heads, tiles of a long
# sequence.
MOST_PROGRAMS = 65_535


def too_many(what: str, n: int) -> str | None:
    """Why a grid cannot have `n` programs along its second or third axis, or None if it can."""
    if n <= MOST_PROGRAMS:
        return None
    return f"{n:,} {what}, and this axis of a grid has at most {MOST_PROGRAMS:,} programs"


def block(n: int, least: int = 16, most: int | None = None) -> int:
    """The width of a tile that covers n: a power of two from `least` to `most`.

    16 is the smallest width of a matrix product.
    """
    size = max(least, triton.next_power_of_2(n))
    if most is None:
        return size
    return min(size, most)


@constant_in_graph
@cache
def processors(device: torch.device) -> int:
    """The number of streaming multiprocessors of a device."""
    if device.type != "cuda":
        return SMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def rows(x: Tensor) -> Tensor:
    """x with its last axis contiguous in memory, as the kernels read it: x itself, or a copy."""
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return x
    return x.contiguous()
