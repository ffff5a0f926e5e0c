"""FLOP formulas of the custom operations, for torch's FlopCounterMode and for fvcore.

A formula gets the operation's arguments in order, with a shape in place of each tensor (None if the
tensor was not given). It returns FLOPs, with one multiply-add as 2. fvcore counts a multiply-add as
1, so its handle returns half.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Formula = Callable[..., int]
Handle = Callable[[list[Any], list[Any]], float]
FORMULAS: dict[str, Formula] = {}


def counted(op: Any, formula: Formula) -> None:
    """Register `formula` for a torch.library custom operation."""
    full_name = op._qualname
    namespace, _, name = full_name.partition("::")
    FORMULAS[full_name] = formula
    operations = getattr(torch.ops, namespace)
    packet = getattr(operations, name)

    def without_outputs(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return formula(*args, **kwargs)

    register_flop_formula(packet)(without_outputs)


def fvcore_handles() -> dict[str, Handle]:
    """Handles for `fvcore.nn.FlopCountAnalysis.set_op_handle`, in fvcore's unit (multiply-adds)."""
    return {name: _handle(formula) for name, formula in FORMULAS.items()}


def _handle(formula: Formula) -> Handle:
    def multiply_adds(inputs: list[Any], outputs: list[Any]) -> float:
        arguments = [_argument(value) for value in inputs]
        return formula(*arguments) / 2

    return multiply_adds


def _argument(value: Any) -> Any:
    """A traced value as formulas read it: the shape of a tensor, or the value of a constant."""
    if isinstance(value.type(), torch._C.TensorType):
        return value.type().sizes()
    return value.toIValue()
