from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.live.profiling.trace import UnknownOperation, count_fvcore, count_torch

COUNTERS = {"torch": count_torch, "fvcore": count_fvcore}


class Apply(nn.Module):
    """A product that both counters know, then an operation."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.operation = nn.Linear(6, 6, bias=False), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.linear(x))


UNKNOWN = {
    "cholesky_inverse": torch.cholesky_inverse,
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "matrix_exp": torch.matrix_exp,
    "cdist": lambda x: torch.cdist(x, x),
    "cumprod": lambda x: x.cumprod(-1),
}


@pytest.mark.parametrize("count", COUNTERS.values(), ids=COUNTERS)
@pytest.mark.parametrize("operation", UNKNOWN.values(), ids=UNKNOWN)
def test_an_operation_without_a_price_fails_the_count(
    operation: Callable[[Tensor], Tensor], count: Callable[..., int]
) -> None:
    with pytest.raises(UnknownOperation, match="does not know"):
        count(Apply(operation), torch.eye(6))


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "nothing": (lambda x: x, 0),
    "elementwise": (lambda x: torch.sigmoid(x) * x + x.sum(-1, keepdim=True), 0),
    "matmul": (lambda x: x @ x, 2 * 6 * 6 * 6),
    "batched": (lambda x: x.expand(3, 6, 6) @ x.expand(3, 6, 6), 3 * 2 * 6 * 6 * 6),
}


@pytest.mark.parametrize("count", COUNTERS.values(), ids=COUNTERS)
@pytest.mark.parametrize(("operation", "flops"), KNOWN.values(), ids=KNOWN)
def test_a_product_counts_two_per_multiply_add(
    operation: Callable[[Tensor], Tensor], flops: int, count: Callable[..., int]
) -> None:
    assert count(Apply(operation), torch.ones(6, 6)) == 2 * 6 * 6 * 6 + flops
