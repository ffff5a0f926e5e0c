"""Frozen models, bounded numbers, and what is wrong with an input in one line: key, value and rule.

Every refusal is a SpecError. Whatever it quotes came from a stranger, so the error itself sees to
it that it is one line of bounded length that a terminal shows and does not obey."""

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:  # pydantic has no public name for it
    ModelMetaclass = type(BaseModel)

MAX_DIM = 131_072
MAX_LAYERS = 1_024

# ---------------------------------------------------------------- words

LONGEST_LINE = 400
LONGEST_VALUE = 60
MOST_NAMES = 8  # of the known ones that a refusal lists


class SpecError(ValueError):
    """A design that breaks a rule: one line that names the key, the value and the rule."""

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


def one_line(text: str) -> str:
    """The text as one line of at most LONGEST_LINE characters. What does not print (escape
    sequences, line breaks, the marks that turn the direction of writing) is spelt out; a longer
    text loses its middle, for the key stands at its start and the rule at its end."""
    line = "".join(map(_printable, text))
    if len(line) <= LONGEST_LINE:
        return line
    rest = LONGEST_LINE // 2 - 3
    return f"{line[:rest]} ... {line[-rest:]}"


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def short(value: Any) -> str:
    """A value as a message shows it: one line, LONGEST_VALUE characters at most."""
    try:
        return cut(repr(value).replace("\n", " "))
    except ValueError:  # more digits than Python is willing to write
        return "a number of thousands of digits"


def cut(text: str) -> str:
    """Text of at most LONGEST_VALUE characters."""
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def nearest(word: Any, known: Iterable[str]) -> str:
    """What `word` may be: all known names where they are few, else those most like it. Names what
    was probably meant."""
    names, said = list(known), word[:100] if isinstance(word, str) else short(word)
    alike = difflib.get_close_matches(said, names, n=MOST_NAMES, cutoff=0.0)
    meant = difflib.get_close_matches(said, names, n=1)
    shown = names if len(names) <= MOST_NAMES else alike
    listed = " or ".join(shown) if len(shown) <= 2 else f"one of {', '.join(shown)}"
    others = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (listed or "nothing") + others + (f" (did you mean {meant[0]}?)" if meant else "")


# ---------------------------------------------------------------- numbers


def exact_int(value: Any) -> Any:
    """The value, if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def power_of_two(value: int) -> int:
    """Raises ValueError for any other number."""
    if value & (value - 1):
        raise ValueError("must be a power of two, such as 128")
    return value


def float32_keeps(value: float) -> float:
    """Raises ValueError for a number so small that a module in float32 might take it for 0."""
    if value < 1e-20:
        raise ValueError("must be at least 1e-20")
    return value


Dim = Annotated[int, BeforeValidator(exact_int), Field(ge=1, le=MAX_DIM)]
PowerOfTwo = Annotated[Dim, AfterValidator(power_of_two)]
Count = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=MAX_DIM)]
Length = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=2**30)]
Size = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=10**13)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
# What multiplies or divides activations: far beyond what anybody publishes, and far within float32.
LEAST_FACTOR, LARGEST_FACTOR = 1e-6, 1e6
Factor = Annotated[float, Field(ge=LEAST_FACTOR, le=LARGEST_FACTOR, allow_inf_nan=False)]
# The base of RoPE's wavelengths: from 1 down later channels would turn faster, not slower.
# Falcon-H1 has 1e11.
Theta = Annotated[float, Field(gt=1, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
# What a norm adds to a mean of squares: more than that drowns the activations.
Epsilon = Annotated[float, Field(gt=0, le=0.1, allow_inf_nan=False), AfterValidator(float32_keeps)]


def divides(key: str, value: int, divisor_key: str, divisor: int) -> None:
    """Raise unless `divisor` divides `value`; the message names both."""
    if value % divisor:
        raise ValueError(f"{key}: {value} - must be divisible by {divisor_key} ({divisor})")


def rotates_pairs(key: str, head_dim: int, rope_fraction: float) -> None:
    """Raise unless RoPE turns whole pairs of channels: the whole head, or the part of it that
    `rope_fraction` says."""
    divides(key, head_dim, "2, for RoPE", 2)
    rotated = head_dim * rope_fraction
    if round(rotated) % 2 or not math.isclose(rotated, round(rotated)):
        raise ValueError(
            f"{key}: {head_dim} - times rope_fraction ({rope_fraction}) must be even, for RoPE"
        )


# ---------------------------------------------------------------- models


def quiet(default: Any) -> Any:
    """A field that stays out of YAML while it has its default."""
    return Field(default=default, exclude_if=lambda value: bool(value == default))


class _OneLine(ModelMetaclass):
    """Says in one line what is wrong with a model's arguments, where pydantic would say it in a
    paragraph."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise SpecError(first_line(error, cls)) from None


class Frozen(BaseModel, metaclass=_OneLine):
    """Immutable, typed strictly, and closed to keys it does not know. What is wrong is a SpecError
    of one line."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, serialize_by_alias=True, populate_by_name=True
    )

    @classmethod
    def make(cls, **fields: Any) -> Self:
        """Validate; raises SpecError with one line that names the key, the value and the rule."""
        return cls._valid(fields)

    @classmethod
    def _valid(cls, data: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(first_line(error, cls)) from None

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, validated again; raises SpecError with one line."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return self.make(**(fields | changes))


# ---------------------------------------------------------------- what pydantic found

_PYDANTIC_RULES = {
    "missing": "missing - this key is required",
    "extra_forbidden": "{value} - unknown key",
}


def first_line(error: ValidationError, model: type[Any]) -> str:
    """The first broken rule of `model` as `key: value - rule`, with the number of further ones."""
    problems = error.errors(include_url=False)
    # An unknown key explains a missing one, so it comes first.
    unknown = (problem for problem in problems if problem["type"] == "extra_forbidden")
    first = next(unknown, problems[0])
    line = _in_words(first)
    if first["type"] == "extra_forbidden":
        line += _suggestion(first["loc"], model)
    if len(problems) > 1:
        line += f" (and {len(problems) - 1} more)"
    return line


_TAGS = ("swiglu", "mlp", "moe", "mamba1", "mamba2")  # pydantic's path names the kind of a union


def _in_words(problem: Any) -> str:
    """One of pydantic's problems as `key: value - rule`."""
    path = [_word(part) for part in problem["loc"]]
    key = ".".join(part for part in path if part not in _TAGS)
    rule: str = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "union_tag_invalid":  # ffn or ssm of an unknown kind
        known = problem["ctx"]["expected_tags"].replace(", ", " or ")
        return f"{key}.kind: {short(problem['ctx']['tag'])} - must be {known}"
    is_plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    if problem["type"] == "value_error" and not is_plain:
        # Rules across keys name key and value themselves.
        if not key:
            return rule
        return f"{key}.{rule}" if " - " in rule else f"{key}: {short(value)} - {rule}"
    template = _PYDANTIC_RULES.get(problem["type"], "{value} - {rule}")
    said = template.format(value=short(value), rule=rule[:1].lower() + rule[1:])
    said = said.replace("input should be", "must be")
    return f"{key}: {said}" if key else said


def _suggestion(where: tuple[str | int, ...], model: type[Any]) -> str:
    """The nearest key that the part which is being read knows."""
    key = str(where[-1])
    known = {
        field.alias or name
        for part in _models_at(model, where[:-1])
        for name, field in part.model_fields.items()
    }
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]}?)" if close and close[0] != key else ""


def _models_at(model: type[Any], path: tuple[str | int, ...]) -> list[type[Frozen]]:
    """The models that may stand at the end of a path of keys from `model`. What names no field - a
    place in a list, a key of a table, the tag of a union - leads no further down."""
    models = [model]
    for step in path:
        fields = [part.model_fields[step] for part in models if step in part.model_fields]
        if fields:
            models = [part for field in fields for part in models_in(field.annotation)]
        elif any(_tag(part) == step for part in models):
            models = [part for part in models if _tag(part) == step]
    return models


def models_in(annotation: Any) -> list[type[Frozen]]:
    """Every model that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def _tag(model: type[Frozen]) -> Any:
    """What tells a model among those of a union."""
    kind = model.model_fields.get("kind")
    return kind.default if kind else None


def _word(part: str | int) -> str:
    """A key as a message shows it."""
    return cut(" ".join(str(part).split()))
