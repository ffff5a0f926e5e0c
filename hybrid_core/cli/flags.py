"""Turn option models into argparse flags, and parsed flags back into options."""

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
    """Add a flag for each field of `model` that has one, or only for the fields in `only`. Each
    help text begins with `before`.

    argparse does not check the values. `options` does, and its errors name the field."""
    for name, field in flagged(model).items():
        if only is not None and name not in only:
            continue
        option = flag(name, field)
        default = None
        if not field.is_required():
            default = field.default
        parser.add_argument(
            option,
            dest=_destination(option),
            type=_parsed(field.annotation),
            default=default,
            metavar=own(field).metavar,
            help=before + help_text(field),
        )


def options(model: type[Model], arguments: argparse.Namespace) -> Model:
    """Options from the arguments. A field without one keeps its default. Raises SpecError."""
    given = {}
    for name, field in flagged(model).items():
        destination = _destination(flag(name, field))
        value = getattr(arguments, destination, None)
        is_tuple = get_origin(value_type(field.annotation)) is tuple
        if is_tuple and isinstance(value, str):
            value = _numbers(name, value)
        if value is not None:
            given[name] = value
    return model.make(**given)


def _destination(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _parsed(annotation: Any) -> Callable[[str], Any]:
    """The function that argparse parses a value with. A tuple stays text until `options` parses
    it."""
    kind: Callable[[str], Any] = value_type(annotation)
    if kind in (int, float):
        return kind
    return str


def _numbers(name: str, text: str) -> list[int]:
    """Reads `1,2,3`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(
            f"{name}: {short(text)} - must be whole numbers separated by commas"
        ) from None
