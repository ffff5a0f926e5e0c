"""Constants of a published config (`ArchSpec.constants`): their allowed values, and which of them
can be absorbed into weights."""

from typing import Any

from hybrid_core.validation import LARGEST_FACTOR, LEAST_FACTOR, short

# Constants that can be absorbed into weights, because scaling a projection's rows scales its
# output. A model loaded from a checkpoint has them in its weights (live/weights.py). A newly
# initialised model can represent the same functions without them. Each is listed with its number of
# values.
ABSORBED = {
    "embedding_multiplier": 1,
    "residual_multiplier": 1,
    "logits_scaling": 1,
    "lm_head_multiplier": 1,
    "key_multiplier": 1,
    "attention_in_multiplier": 1,
    "attention_out_multiplier": 1,
    "ssm_in_multiplier": 1,
    "ssm_out_multiplier": 1,
    "ssm_multipliers": 5,
    "mlp_multipliers": 2,
}


def checked_constants(given: dict[str, Any]) -> dict[str, Any]:
    """The constants unchanged. Raises ValueError unless factors are safe to multiply and divide by,
    and all other numbers are finite."""
    for key, value in given.items():
        if key in ABSORBED:
            _check_factors(key, value, ABSORBED[key])
        elif not _is_finite(value):
            raise ValueError(
                f"{key}: {short(value)} - must be finite numbers up to 1e12, words, true or false"
            )
    return given


def _check_factors(key: str, value: Any, count: int) -> None:
    """Raise ValueError unless `value` is `count` factors: a list, or a single number if `count` is
    1."""
    several = count > 1 and isinstance(value, list | tuple)
    factors = value if several else [value]
    are_factors = all(_is_factor(factor) for factor in factors)
    if len(factors) != count or not are_factors:
        number = "a number" if count == 1 else f"{count} numbers"
        limits = f"from {LEAST_FACTOR:g} to {LARGEST_FACTOR:,.0f} in size"
        raise ValueError(f"{key}: {short(value)} - must be {number} {limits}")


def _is_factor(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and LEAST_FACTOR <= abs(value) <= LARGEST_FACTOR
    )


def _is_finite(value: Any) -> bool:
    """Whether a JSON value and everything in it is a string, a boolean, null, or a number of
    reasonable size."""
    if isinstance(value, dict):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(item) for item in value)
    return (
        value is None
        or isinstance(value, str)
        or (isinstance(value, int | float) and abs(value) <= 1e12)
    )
