"""How refusals are worded, and the rules that several kinds of layer share."""

import pytest
from pydantic import ValidationError

from hybrid_core.design.constants import checked_constants
from hybrid_core.validation import Frozen, exact_int, first_line, models_in, one_line, rotates_pairs


class Inner(Frozen):
    width: int


class Outer(Frozen):
    inner: Inner | None = None
    depth: int = 1


def test_a_line_shows_what_does_not_print_and_loses_its_middle() -> None:
    assert one_line("key:\x1b[2J\n") == r"key:\x1b[2J\n"
    cut = one_line("a" * 300 + "b" * 300)
    assert len(cut) <= 400
    assert cut == "a" * 197 + " ... " + "b" * 197


def test_a_misspelt_key_comes_first_and_the_right_one_is_suggested() -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"dept": "two", "depth": "three"})
    line = first_line(error.value, Outer)
    assert line == "dept: 'two' - unknown key (did you mean depth?) (and 1 more)"


def test_models_inside_a_type_are_found() -> None:
    assert models_in(Outer.model_fields["inner"].annotation) == [Inner]
    assert models_in(int) == []


@pytest.mark.parametrize("value", [True, 2.0, "2"])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    assert exact_int(2) == 2
    with pytest.raises(ValueError, match="whole number"):
        exact_int(value)


def test_rope_rotates_whole_pairs_of_channels() -> None:
    rotates_pairs("head_dim", 64, 0.5)  # 32 channels, 16 pairs
    with pytest.raises(ValueError, match="head_dim: 63"):
        rotates_pairs("head_dim", 63, 1.0)
    with pytest.raises(ValueError, match="rope_fraction"):
        rotates_pairs("head_dim", 12, 0.25)  # 3 channels


def test_constants_that_nothing_can_be_multiplied_with_are_refused() -> None:
    given = {"embedding_multiplier": 12.0, "note": "as published"}
    assert checked_constants(given) == given
    with pytest.raises(ValueError, match="note"):
        checked_constants({"note": float("nan")})
