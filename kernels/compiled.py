"""What torch.compile has to know about our functions."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant_in_graph(function: Function) -> Function:
    """Let torch.compile call `function` while it traces, and keep the result as a constant.

    `torch.compiler.assume_constant_result` sets the same mark. But it imports torch._dynamo first,
    which costs every process 1.4 s, whether it compiles or not.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function
