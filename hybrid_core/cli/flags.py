"""Models of options as arguments of argparse, and back."""

import argparse
from collections.abc import Callable, Container
from typing import Any, TypeVar, get_origin

from hybrid_core.options import flag, flagged, help_text, own, value_type
from hybrid_core.validation import Frozen, SpecError, short

Model = TypeVar("Model", bound=Frozen)


def add_flags(
    parser: argparse.ArgumentParser,
    model: type[Frozen],
    only: Container[str] | None = None,
    before: str = "",
) -> None:
    """Add a flag for each field of `model`, or for those in `only`; `before` begins the help of
    each.

    A word that a field does not allow is refused by `options`, whose error names the field."""
    for name, field in flagged(model).items():
        if only is not None and name not in only:
            continue
        option = flag(name, field)
        parser.add_argument(
            option,
            dest=_destination(option),
            type=_parsed(field.annotation),
            default=None if field.is_required() else field.default,
            metavar=own(field).metavar,
            help=before + help_text(field),
        )


def options(model: type[Model], arguments: argparse.Namespace) -> Model:
    """The options that the arguments ask for; what is not among them keeps its default. Raises
    SpecError."""
    given = {}
    for name, field in flagged(model).items():
        value = getattr(arguments, _destination(flag(name, field)), None)
        if isinstance(value, str) and get_origin(value_type(field.annotation)) is tuple:
            value = _numbers(name, value)
        if value is not None:
            given[name] = value
    return model.make(**given)


def _destination(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _parsed(annotation: Any) -> Callable[[str], Any]:
    """How argparse reads a value; a tuple stays text until `options` reads it."""
    kind = value_type(annotation)
    return kind if kind in (int, float) else str


def _numbers(name: str, text: str) -> list[int]:
    """Numbers between commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(
            f"{name}: {short(text)} - must be whole numbers with commas between"
        ) from None
