"""Frozen models, bounded numbers, and one-line errors: key, value and rule.

Every invalid input raises a SpecError. Its message quotes untrusted input, so the error limits
itself to one line of bounded length, without terminal control characters."""

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
MOST_NAMES = 8  # known names that an error lists at most


class SpecError(ValueError):
    """A design breaks a rule. The message is one line that names the key, the value and the
    rule."""

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line))


def one_line(text: str) -> str:
    """The text as one line of at most LONGEST_LINE characters.

    Characters that do not print are escaped: escape sequences, line breaks, text-direction marks. A
    longer text is cut in the middle, because the key is at its start and the rule at its end."""
    line = "".join(map(_printable, text))
    if len(line) <= LONGEST_LINE:
        return line
    rest = LONGEST_LINE // 2 - 3
    return f"{line[:rest]} ... {line[-rest:]}"


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def short(value: Any) -> str:
    """A value as a message shows it: one line, LONGEST_VALUE characters at most."""
    try:
        return cut(repr(value).replace("\n", " "))
    except ValueError:  # more digits than Python converts to text
        return "a number with thousands of digits"


def cut(text: str) -> str:
    """Text of at most LONGEST_VALUE characters."""
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def nearest(word: Any, known: Iterable[str]) -> str:
    """The rule for a word that must be one of `known`: `one of a, b, c (did you mean b?)`.

    Lists all known names if there are few, else those most similar to `word`."""
    names = list(known)
    given = word[:100] if isinstance(word, str) else short(word)
    shown = names
    if len(names) > MOST_NAMES:
        shown = difflib.get_close_matches(given, names, n=MOST_NAMES, cutoff=0.0)
    rule = _listed(shown)
    if len(names) > len(shown):
        rule += f" and {len(names) - len(shown)} more"
    meant = difflib.get_close_matches(given, names, n=1)
    if meant:
        rule += f" (did you mean {meant[0]}?)"
    return rule


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    if len(names) <= 2:
        return " or ".join(names)
    return f"one of {', '.join(names)}"


# ---------------------------------------------------------------- numbers


def exact_int(value: Any) -> Any:
    """The value unchanged. Raises ValueError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _power_of_two(value: int) -> int:
    """Raises ValueError for any other number."""
    if value & (value - 1):
        raise ValueError("must be a power of two, such as 128")
    return value


def _float32_keeps(value: float) -> float:
    """Raises ValueError for a number that a module in float32 might round to 0."""
    if value < 1e-20:
        raise ValueError("must be at least 1e-20")
    return value


Dim = Annotated[int, BeforeValidator(exact_int), Field(ge=1, le=MAX_DIM)]
PowerOfTwo = Annotated[Dim, AfterValidator(_power_of_two)]
Count = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=MAX_DIM)]
Length = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=2**30)]
Size = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=10**13)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
# Factors on activations. The limits are far beyond any published value and far within float32.
LEAST_FACTOR, LARGEST_FACTOR = 1e-6, 1e6
Factor = Annotated[float, Field(ge=LEAST_FACTOR, le=LARGEST_FACTOR, allow_inf_nan=False)]
# The base of RoPE's wavelengths. With 1 or less, later channels would rotate faster, not slower.
# Falcon-H1 uses 1e11.
Theta = Annotated[float, Field(gt=1, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
# Epsilon that a norm adds to the mean square. A larger value would swamp the activations.
Epsilon = Annotated[
    float,
    Field(gt=0, le=0.1, allow_inf_nan=False),
    AfterValidator(_float32_keeps),
]


def divides(key: str, value: int, divisor_key: str, divisor: int) -> None:
    """Raise ValueError unless `divisor` divides `value`. The message names both."""
    if value % divisor:
        raise ValueError(f"{key}: {value} - must be divisible by {divisor_key} ({divisor})")


def rotates_pairs(key: str, head_dim: int, rope_fraction: float) -> None:
    """Raise ValueError unless RoPE rotates whole pairs of channels, both in a whole head and in the
    fraction `rope_fraction` of it."""
    divides(key, head_dim, "2, for RoPE", 2)
    rotated = head_dim * rope_fraction
    is_whole = math.isclose(rotated, round(rotated))
    if not is_whole or round(rotated) % 2:
        raise ValueError(
            f"{key}: {head_dim} - times rope_fraction ({rope_fraction}) must be even, for RoPE"
        )


# ---------------------------------------------------------------- models


def quiet(default: Any) -> Any:
    """A field that YAML omits while it has its default value."""

    def is_default(value: Any) -> bool:
        return bool(value == default)

    return Field(default=default, exclude_if=is_default)


class _OneLine(ModelMetaclass):
    """Turns pydantic's multi-line error about a model's arguments into one line."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise SpecError(first_line(error, cls)) from None


class Frozen(BaseModel, metaclass=_OneLine):
    """An immutable, strictly typed model that rejects unknown keys. Any error is a one-line
    SpecError."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        serialize_by_alias=True,
        populate_by_name=True,
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
        """A copy with these values changed, validated again; raises SpecError with one line."""
        names = type(self).model_fields
        fields = {name: getattr(self, name) for name in names}
        return self.make(**(fields | changes))


# ---------------------------------------------------------------- what pydantic found

_PYDANTIC_RULES = {
    "missing": "missing - this key is required",
    "extra_forbidden": "{value} - unknown key",
}


def first_line(error: ValidationError, model: type[Any]) -> str:
    """The first broken rule of `model` as `key: value - rule`, and how many more are broken."""
    problems = error.errors(include_url=False)
    # A misspelt key gives two errors: one unknown key and one missing key. The unknown key is the
    # more helpful one, so it comes first.
    unknown = (problem for problem in problems if problem["type"] == "extra_forbidden")
    first = next(unknown, problems[0])
    line = _in_words(first)
    if first["type"] == "extra_forbidden":
        line += _suggestion(first["loc"], model)
    if len(problems) > 1:
        line += f" (and {len(problems) - 1} more)"
    return line


_TAGS = ("swiglu", "mlp", "moe", "mamba1", "mamba2")  # pydantic's paths include a union's tag


def _in_words(problem: Any) -> str:
    """One of pydantic's problems as `key: value - rule`."""
    path = [_word(part) for part in problem["loc"]]
    key = ".".join(part for part in path if part not in _TAGS)
    if problem["type"] == "union_tag_invalid":  # ffn or ssm of an unknown kind
        context = problem["ctx"]
        known = context["expected_tags"].replace(", ", " or ")
        return f"{key}.kind: {short(context['tag'])} - must be {known}"
    rule: str = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    is_plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    if problem["type"] == "value_error" and not is_plain:
        return _across_keys(key, value, rule)
    template = _PYDANTIC_RULES.get(problem["type"], "{value} - {rule}")
    lower = rule[:1].lower() + rule[1:]
    line = template.format(value=short(value), rule=lower)
    line = line.replace("input should be", "must be")
    return f"{key}: {line}" if key else line


def _across_keys(key: str, value: Any, rule: str) -> str:
    """A rule about several keys of the section `key`. Such rules name key and value themselves."""
    if not key:
        return rule
    if " - " in rule:
        return f"{key}.{rule}"
    return f"{key}: {short(value)} - {rule}"


_Path = tuple[str | int, ...]


def _suggestion(where: _Path, model: type[Any]) -> str:
    """A hint with the section's key that is most similar to the unknown key, if any."""
    key = str(where[-1])
    known = set()
    for part in _models_at(model, where[:-1]):
        for name, field in part.model_fields.items():
            known.add(field.alias or name)
    close = difflib.get_close_matches(key, known, n=1)
    if not close or close[0] == key:
        return ""
    return f" (did you mean {close[0]}?)"


def _models_at(model: type[Any], path: _Path) -> list[type[Frozen]]:
    """The models that a path of keys from `model` may lead to.

    Steps that name no field are skipped: list indices, table keys, union tags."""
    models = [model]
    for step in path:
        fields = [part.model_fields[step] for part in models if step in part.model_fields]
        if fields:
            models = [part for field in fields for part in models_in(field.annotation)]
            continue
        tagged = [part for part in models if _tag(part) == step]
        if tagged:
            models = tagged
    return models


def models_in(annotation: Any) -> list[type[Frozen]]:
    """Every model in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def _tag(model: type[Frozen]) -> Any:
    """The tag that distinguishes a model from the others in a union."""
    kind = model.model_fields.get("kind")
    return kind.default if kind else None


def _word(part: str | int) -> str:
    """A key as a message shows it: one line, cut if it is long."""
    return cut(" ".join(str(part).split()))
