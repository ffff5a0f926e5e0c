"""A Triton kernel against the float64 reference: outputs and every gradient, by relative error."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.conftest import assert_close
from tests.kernels.conftest import DEVICE

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
Run = Callable[..., Tensor | tuple[Tensor, ...]]


def on_device(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.to(DEVICE) for x in tensors]


def random(rng: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng).to(DEVICE, dtype)


def token_by_token(
    step: Callable[..., Tensor],
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """y of a scan's single step for one token after the other; `state` is updated in place."""
    tokens = zip(*(v.split(1, 1) for v in (x, dt, B, C)), strict=True)
    return torch.cat([step(x_t, dt_t, A, B_t, C_t, D, state) for x_t, dt_t, B_t, C_t in tokens], 1)


def assert_agree(
    names: str,
    actual: Tensor | tuple[Tensor, ...],
    expected: Tensor | tuple[Tensor, ...],
    tolerance: float,
) -> None:
    """Outputs, one by one, under their names."""
    pair = ((x,) if isinstance(x, Tensor) else x for x in (actual, expected))
    for name, one, other in zip(names.split(), *pair, strict=True):
        assert_close(name, one, other, tolerance)


def assert_gradients_agree(
    names: str,
    run: Run,
    truth: Run,
    inputs: Sequence[Tensor],
    rng: torch.Generator,
    tolerance: float,
) -> None:
    """Gradients of a random combination of all outputs of run(*inputs), against those of
    truth(*inputs)."""
    found = []
    weights: list[Tensor] = []
    for f in (run, truth):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        outs = f(*leaves)
        outs = (outs,) if isinstance(outs, Tensor) else outs
        weights = weights or [random(rng, *out.shape) for out in outs]
        total = sum(
            (out.double() * weight).sum() for out, weight in zip(outs, weights, strict=True)
        )
        found.append(torch.autograd.grad(total, leaves))
    for name, one, other in zip(names.split(), *found, strict=True):
        assert_close(f"gradient of {name}", one, other, tolerance)
