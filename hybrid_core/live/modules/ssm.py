"""What Mamba-1 and Mamba-2 share: the scan's precision, and initial convolution and dt."""

import math

import torch
from torch import Tensor

DT_RANGE = (1e-3, 1e-1)


def scan_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of dt, A and the state in a model of weights in `dtype`: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def initialise_conv(weight: Tensor, bias: Tensor) -> None:
    """Uniform weight [channels, d_conv] and bias [channels], like torch's own convolution."""
    bound = weight.shape[1] ** -0.5
    weight.uniform_(-bound, bound)
    bias.uniform_(-bound, bound)


def initialise_dt_bias(bias: Tensor) -> None:
    """Draw the bias so that softplus(bias) is log-uniform in [0.001, 0.1]."""
    low, high = DT_RANGE
    log_dt = torch.empty_like(bias, dtype=torch.float32).uniform_(math.log(low), math.log(high))
    dt = log_dt.exp()
    # The inverse of softplus: log(exp(dt) - 1) = dt + log(1 - exp(-dt)).
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
