"""The words for tensors' shapes in error messages."""

from torch import Tensor


def in_words(**tensors: Tensor | None) -> str:
    """Names and shapes of the tensors that were given: "x (2, 3), state (4,)"."""
    words = []
    for name, tensor in tensors.items():
        if tensor is not None:
            words.append(f"{name} {tuple(tensor.shape)}")
    return ", ".join(words)
