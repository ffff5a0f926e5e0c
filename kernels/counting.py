"""FLOP formulas of the custom operations, for torch's FlopCounterMode and for fvcore alike.

A formula gets the operation's arguments in order, each tensor as its shape (None where it was not
given), and returns FLOPs with one multiply-add as 2. fvcore counts a multiply-add as 1, so its
handle returns half."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Formula = Callable[..., int]
FORMULAS: dict[str, Formula] = {}


def counted(op: Any, formula: Formula) -> None:
    """Register `formula` for a torch.library custom operation."""
    name = op._qualname
    namespace, _, short = name.partition("::")
    FORMULAS[name] = formula
    packet = getattr(getattr(torch.ops, namespace), short)

    def without_outputs(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return formula(*args, **kwargs)

    register_flop_formula(packet)(without_outputs)


def fvcore_handles() -> dict[str, Callable[[list[Any], list[Any]], float]]:
    """Handles for `fvcore.nn.FlopCountAnalysis.set_op_handle`, in fvcore's unit (multiply-adds)."""

    def handle(formula: Formula) -> Callable[[list[Any], list[Any]], float]:
        return lambda inputs, outputs: formula(*map(_argument, inputs)) / 2

    return {name: handle(formula) for name, formula in FORMULAS.items()}


def _argument(value: Any) -> Any:
    """A traced value as a formula wants it: a tensor's shape, a constant's value."""
    if isinstance(value.type(), torch._C.TensorType):
        return value.type().sizes()
    return value.toIValue()
