import torch

from kernels.compiled import constant_in_graph


def test_the_mark_is_that_of_torch() -> None:
    def ours() -> int:
        return 1

    def theirs() -> int:
        return 1

    torch.compiler.assume_constant_result(theirs)
    assert vars(constant_in_graph(ours)) == vars(theirs) != {}
