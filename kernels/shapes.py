"""Tensors' shapes as text for error messages."""

from torch import Tensor


def in_words(**tensors: Tensor | None) -> str:
    """The names and shapes of the given tensors: "x (2, 3), state (4,)"."""
    words = []
    for name, tensor in tensors.items():
        if tensor is not None:
            words.append(f"{name} {tuple(tensor.shape)}")
    return ", ".join(words)
