"""What the kinds of feed-forward have in common."""

from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]
