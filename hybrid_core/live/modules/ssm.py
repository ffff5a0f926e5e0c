"""What Mamba-1 and Mamba-2 share: the convolution, the scan's dtype, and the initial weights.

The initial weights are those of the reference implementation (state-spaces/mamba).
"""

import math

import torch
from torch import Tensor, nn

from hybrid_core.live.modules.cache import SSMCache
from kernels.causal_conv1d import causal_conv1d

DT_RANGE = (1e-3, 1e-1)


def scan_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of dt, A and the state in a model with weights in `dtype`: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def undrawn(*shape: int) -> nn.Parameter:
    """An uninitialised parameter; the module's `initialise` sets its values."""
    return nn.Parameter(torch.empty(*shape))


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cache: SSMCache | None,
) -> Tensor:
    """The causal convolution and SiLU of x [B, T, channels]; weight [channels, d_conv].

    It continues from the last inputs in `cache`, if given, and replaces them.
    """
    past = None if cache is None else cache.conv
    out, last_inputs = causal_conv1d(x, weight, bias, past)
    if cache is not None:
        cache.conv.copy_(last_inputs)
    return out


def initialise_conv(weight: Tensor, bias: Tensor) -> None:
    """Uniform weight [channels, d_conv] and bias [channels], like torch's own convolution."""
    bound = weight.shape[1] ** -0.5
    weight.uniform_(-bound, bound)
    bias.uniform_(-bound, bound)


def initialise_dt_bias(bias: Tensor) -> None:
    """Draw the bias so that softplus(bias) is log-uniform in [0.001, 0.1]."""
    low, high = DT_RANGE
    log_dt = torch.empty_like(bias, dtype=torch.float32)
    log_dt.uniform_(math.log(low), math.log(high))
    dt = log_dt.exp()
    # The inverse of softplus: log(exp(dt) - 1) = dt + log(1 - exp(-dt)).
    one_minus_exp = -torch.expm1(-dt)
    bias.copy_(dt + torch.log(one_minus_exp))
