import torch

from kernels.shapes import in_words


def test_shapes_are_named_in_order_and_tensors_that_were_not_given_are_left_out() -> None:
    assert in_words(x=torch.ones(2, 3), state=None, D=torch.ones(4)) == "x (2, 3), D (4,)"
