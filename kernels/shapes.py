"""The words for tensors' shapes in error messages."""

from torch import Tensor


def in_words(**tensors: Tensor | None) -> str:
    """Names and shapes of the tensors that were given: "x (2, 3), state (4,)"."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
