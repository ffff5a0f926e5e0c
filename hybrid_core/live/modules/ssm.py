"""What Mamba-1 and Mamba-2 share: the precision of the scan, and how convolution and dt start."""

import math

import torch
from torch import Tensor

DT_RANGE = (1e-3, 1e-1)


def scan_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of dt, A and the state in a model whose weights are `dtype`: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def initialise_conv(weight: Tensor, bias: Tensor) -> None:
    """weight [channels, d_conv], bias [channels]: uniform, as torch's convolution starts."""
    bound = weight.shape[1] ** -0.5
    weight.uniform_(-bound, bound)
    bias.uniform_(-bound, bound)


def initialise_dt_bias(bias: Tensor) -> None:
    """Such that softplus(bias) is log-uniform in [0.001, 0.1]."""
    dt = torch.empty_like(bias, dtype=torch.float32).uniform_(*map(math.log, DT_RANGE)).exp()
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
