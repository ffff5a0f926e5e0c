"""The shared closed forms of feed-forwards, worked out by hand for d_model 4 and d_ff 10."""

import pytest

from hybrid_core.ffns.base import (
    gated_workspace,
    in_and_out,
    n_bias_params,
    n_matrix_params,
    plain_workspace,
)
from hybrid_core.ffns.registry import ffn_costs
from hybrid_core.terms import total


def test_a_gated_feed_forward_has_a_third_matrix() -> None:
    assert n_matrix_params(4, 10, gated=False) == 40 + 40
    assert n_matrix_params(4, 10, gated=True) == 40 + 40 + 40


def test_it_has_a_bias_for_each_way_in_and_one_for_the_way_out() -> None:
    assert n_bias_params(4, 10, gated=False) == 10 + 4
    assert n_bias_params(4, 10, gated=True) == 10 + 10 + 4


def test_a_product_of_two_matrices_is_two_flops_an_element() -> None:
    plain = in_and_out("ffn", 3, 4, 10, gated=False)
    assert [(term.name, term.flops) for term in plain] == [("ffn.up", 240), ("ffn.down", 240)]
    gated = in_and_out("ffn", 3, 4, 10, gated=True)
    assert [term.name for term in gated] == ["ffn.gate", "ffn.up", "ffn.down"]
    assert total(gated) == 3 * 240


@pytest.mark.parametrize(("d_model", "plain", "gated"), [(4, 20, 40), (40, 50, 70)])
def test_the_peak_is_inside_or_at_the_output_whichever_is_wider(
    d_model: int, plain: int, gated: int
) -> None:
    assert plain_workspace(d_model, 10) == plain
    assert gated_workspace(d_model, 10) == gated


def test_a_layer_without_a_feed_forward_costs_nothing() -> None:
    assert total(ffn_costs(None, 4).forward_flops(100)) == 0
