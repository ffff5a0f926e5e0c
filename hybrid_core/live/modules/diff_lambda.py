"""The Differential Transformer's lambda (arXiv 2410.05258), which scales the second branch."""

import math

import torch
from torch import Tensor, nn


class DiffLambda(nn.Module):
    """exp(q1 . k1) - exp(q2 . k2) + start (arXiv 2410.05258, equation 2).

    start = 0.8 - 0.6 exp(-0.3 (layer - 1)), with layers counted from 1 in the paper; `layer_index`
    counts from 0. The four learnt vectors are `width` wide.
    """

    def __init__(self, width: int, layer_index: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(4, width))
        self.start = 0.8 - 0.6 * math.exp(-0.3 * layer_index)

    def factor(self, dtype: torch.dtype) -> Tensor:
        """Lambda in `dtype`. It is a single number, so float64 costs next to nothing."""
        q1, k1, q2, k2 = self.vectors.double()
        first = torch.exp((q1 * k1).sum())
        second = torch.exp((q2 * k2).sum())
        factor = first - second + self.start
        return factor.to(dtype)
