"""One linear map per group of rows: the matrix products of a mixture of experts, without dropping a
token."""

import torch
from torch import Tensor

from kernels import dispatch
from kernels.counting import counted
from kernels.grouped_linear import eager


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows sorted by group: the first counts[0] rows go through weight[0], the next counts[1]
    through weight[1], and so on.

    x [rows, d_in]; weight [E, d_out, d_in]; counts [E], whole numbers that add up to `rows` ->
    [rows, d_out]."""
    if weight.shape[2] != x.shape[1] or counts.shape != weight.shape[:1]:
        raise ValueError(
            f"grouped_linear: x {tuple(x.shape)}, weight {tuple(weight.shape)}, counts {tuple(counts.shape)} do not fit together"
        )
    out: Tensor = dispatch.run("grouped_linear", _grouped_linear, x, weight, counts)
    return out


@torch.library.custom_op("hybrid::grouped_linear", mutates_args=())
def _grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return eager.grouped_linear(x, weight, counts)


@_grouped_linear.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


counted(_grouped_linear, lambda x, weight, counts: 2 * x[0] * weight[1] * weight[2])
