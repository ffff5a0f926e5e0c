from typing import Annotated, Any

import pytest
from pydantic import Field

from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions
from hybrid_core.options import flagged, value_type
from hybrid_core.validation import Frozen, SpecError

BAD: list[tuple[type[Frozen], dict[str, Any], str]] = [
    (ProfileOptions, {"seed": -1}, "seed: -1 - "),
    (ProfileOptions, {"seed": 10**30}, "seed: "),
    (ProfileOptions, {"budget_s": float("nan")}, "budget_s: nan - "),
    (ProfileOptions, {"device": "cuda:٣"}, "device: "),
    (ProfileOptions, {"device": "cuda:99999999999"}, "device: "),
    (ProfileOptions, {"totals": (2048,) * 10_000}, "totals: "),
    (NiahOptions, {"budget_s": float("inf")}, "budget_s: inf - "),
    (NiahOptions, {"seed": 2**31}, "seed: 2147483648 - "),
    (CheckpointOptions, {"path": "x", "lengths": (64,) * 10_000}, "lengths: "),
    (CheckpointOptions, {"path": "x", "depths": (float("nan"),)}, "depths.0: nan - "),
]


@pytest.mark.parametrize(
    ("model", "fields", "line"), BAD, ids=lambda value: value if isinstance(value, str) else None
)
def test_an_option_that_nobody_means_is_refused_in_one_line(
    model: type[Frozen], fields: dict[str, Any], line: str
) -> None:
    with pytest.raises(SpecError) as error:
        model.make(**fields)
    assert str(error.value).startswith(line)
    assert len(str(error.value)) <= 400


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Annotated[int, "a bound"], int),
        (Annotated[float, "a bound"] | None, float),
        (tuple[int, ...], tuple[int, ...]),
    ],
)
def test_the_type_of_a_flag_is_the_fields_without_its_bounds(
    annotation: Any, expected: object
) -> None:
    assert value_type(annotation) == expected


def test_a_field_without_a_description_has_no_flag() -> None:
    class Asked(Frozen):
        device: str = Field("cpu", description="the device")
        inner: int = 0

    assert list(flagged(Asked)) == ["device"]
