"""Lists of modules and layouts in quantisation configs, by hand. Sizes: costs/test_weights.py."""

import pytest

from hybrid_core.interop.quantization.methods import scheme_of
from hybrid_core.interop.quantization.module_lists import Modules
from hybrid_core.interop.quantization.scheme import block_fp8, name_list
from hybrid_core.validation import SpecError


@pytest.mark.parametrize(
    ("listed", "held"),
    [
        ("lm_head", False),
        ("self_attn", True),  # a part of the path
        ("model.layers.3.self_attn", True),  # what is below the module
        ("model.layers.4.self_attn", False),
        ("model.layers.3.self_attn.q", False),  # only whole components
        ("*.q_proj", True),
        ("model.layers.[12].*", False),
        (r"re:.*layers\.\d+\.self_attn.*", True),
        (r"re:self_attn", False),  # from the start
    ],
)
def test_a_list_names_a_module_by_path_pattern_or_expression(listed: str, held: bool) -> None:
    assert Modules([listed]).hold(3, ["self_attn.q_proj"]) == held


def test_outside_the_layers_a_module_has_its_own_name() -> None:
    assert Modules(["lm_head"]).hold(None, ["lm_head", "language_model.lm_head"])
    assert not Modules(["re:.*layers.*"]).hold(None, ["lm_head"])


def test_an_expression_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"^quantization_config: '\(' - not a regular expression"):
        Modules(["re:("])


def test_blocks_of_fp8_have_rows_and_columns() -> None:
    """weight_block_size of DeepSeek-V3 is 128 rows by 128 columns; here they differ."""
    found = block_fp8({"weight_block_size": [128, 64]}, "weight_block_size")
    assert dict(found or ()) == {"format": "fp8", "rows": 128, "columns": 64}
    assert block_fp8({}, "weight_block_size") is None
    with pytest.raises(SpecError, match=r"weight_block_size: \[128\] - must be two whole numbers"):
        block_fp8({"weight_block_size": [128]}, "weight_block_size")


def test_a_list_of_names_holds_texts_alone() -> None:
    assert name_list("ignore", ["lm_head"]) == ["lm_head"]
    with pytest.raises(SpecError, match=r"^quantization_config\.ignore: \[1\] - must be a list of"):
        name_list("ignore", [1])


def test_a_scheme_has_the_layout_of_its_method() -> None:
    """AWQ: 4 bits, a 16-bit scale and a 4-bit zero point for each 128. MLX also takes the head."""
    awq = scheme_of({"quant_method": "awq"})
    assert dict(awq.groups[0].layout) == {
        "format": "int4",
        "rows": 1,
        "columns": 128,
        "scale_bits": 20,
    }
    mlx = scheme_of({"bits": 4, "group_size": 32})
    assert dict(mlx.groups[0].layout)["scale_bits"] == 32
    assert "head" in mlx.also
