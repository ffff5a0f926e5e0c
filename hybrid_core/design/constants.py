"""Constants of a published config (`ArchSpec.constants`): what they may be, and which of them
weights can absorb."""

from typing import Any

from hybrid_core.validation import LARGEST_FACTOR, LEAST_FACTOR, short

# Constants that weights can absorb: scaling a projection's rows is scaling what it puts out. A
# model made from a checkpoint has them in its weights (live/weights.py); one that starts fresh
# is the same family of functions without them. Each with its count of numbers.
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
    """The constants themselves. Raises ValueError unless factors can be multiplied with and divided
    by, and all else is at least finite."""
    for key, value in given.items():
        if key in ABSORBED:
            _check_factors(key, value, ABSORBED[key])
        elif not _is_finite(value):
            raise ValueError(
                f"{key}: {short(value)} - must be finite numbers up to 1e12, words, true or false"
            )
    return given


def _check_factors(key: str, value: Any, count: int) -> None:
    """Raise ValueError unless `value` is `count` factors: a list of them, or a number if it is
    one."""
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
    """Whether a value as JSON has it, and all in it, is a word, a truth, nothing, or a number of a
    usual size."""
    if isinstance(value, dict):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(item) for item in value)
    return (
        value is None
        or isinstance(value, str)
        or (isinstance(value, int | float) and abs(value) <= 1e12)
    )
