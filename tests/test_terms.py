"""The small sums that every closed form is made of, by hand."""

import numpy as np
import pytest

from hybrid_core.terms import Term, last_pieces, renamed, widest


def test_only_products_of_a_part_get_its_name() -> None:
    terms = [Term("in_proj", 8, "product"), Term("scan", 5, "scan")]
    assert [term.name for term in renamed(terms, "ssm")] == ["ssm in_proj", "scan"]
    assert [term.flops for term in renamed(terms, "ssm")] == [8, 5]


@pytest.mark.parametrize(
    ("seq_len", "expected"),
    [
        (10, ((4, 4), (8, 2))),  # 4 + 4 + 2
        (8, ((4, 4), (8, 0))),
        (3, ((0, 3), (0, 3))),  # shorter than a piece
    ],
)
def test_the_last_whole_piece_and_the_shorter_one_after_it(
    seq_len: int, expected: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    assert last_pieces(seq_len, 4) == expected


def test_the_widest_moment_is_found_for_each_length() -> None:
    assert widest(3, 7, 5) == 7
    assert widest(np.array([1, 9]), 4).tolist() == [4, 9]
