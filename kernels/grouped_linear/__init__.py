"""One linear map per group of rows: the matrix products of a mixture of experts."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.grouped_linear import eager
from kernels.shapes import in_words


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The first counts[0] rows times weight[0], the next counts[1] rows times weight[1], and so on.

    x [rows, d_in], sorted by group; weight [E, d_out, d_in]; counts [E], whole numbers that add up
    to `rows` -> [rows, d_out]. Raises ValueError if the shapes do not fit.
    """
    if weight.shape[2] != x.shape[1] or counts.shape != weight.shape[:1]:
        shapes = in_words(x=x, weight=weight, counts=counts)
        raise ValueError(f"grouped_linear: {shapes} do not fit together")
    out: Tensor = dispatch.run("grouped_linear", _grouped_linear, x, weight, counts)
    return out


@torch.library.custom_op("hybrid::grouped_linear", mutates_args=())
def _grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return eager.grouped_linear(x, weight, counts)


@_grouped_linear.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _flops(x, weight, counts):  # type: ignore[no-untyped-def]
    """Every row goes through one matrix."""
    _, d_out, d_in = weight
    return 2 * x[0] * d_out * d_in


counted(_grouped_linear, _flops)
