"""Command-line flags, derived from option models: every field with a description is a flag.

A flag takes its name, type, allowed words and default from the field. So a command's help, the text
next to a page's control and the command that repeats a run always agree."""

import shlex
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

LEFT_OUT = ("_s", "_path")  # suffixes of field names that flags leave out


class Flag(NamedTuple):
    """Extra information about a flag, placed in its field's `Annotated`: the flag's name, a
    placeholder for its value in the help, and a description of the default."""

    name: str | None = None
    metavar: str | None = None
    default: str | None = None


def flagged(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model that have a flag, by name, in the model's order."""
    return {name: field for name, field in model.model_fields.items() if field.description}


def own(field: FieldInfo) -> Flag:
    """The `Flag` in a field's metadata, or an empty one."""
    for part in field.metadata:
        if isinstance(part, Flag):
            return part
    return Flag()


def flag(name: str, field: FieldInfo) -> str:
    """The flag of a field: `--budget` of `budget_s`."""
    word = own(field).name
    if word is None:
        word = name
        for ending in LEFT_OUT:
            word = word.removesuffix(ending)
    return "--" + word.replace("_", "-")


def value_type(annotation: Any) -> Any:
    """The type of a field's value, without bounds and None: int, float, str, a Literal or a
    tuple."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return value_type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return value_type(kinds[0])
    return annotation


def words(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field allows. Empty if it takes numbers or any text."""
    kind = value_type(field.annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _one_of(allowed: tuple[str, ...]) -> str:
    """`fp32, bf16 or fp16`."""
    *most, last = allowed
    return f"{', '.join(most)} or {last}"


def help_text(field: FieldInfo) -> str:
    """The help text of a flag: its meaning, allowed words and default."""
    text = str(field.description)
    allowed = words(field)
    if allowed:
        text += f": {_one_of(allowed)}"
    default = own(field).default
    if default is None and not field.is_required():
        default = field.default
    if default is None:
        return text
    return f"{text} (default: {default})"


def command_line(model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """The flags that reproduce these values, quoted for a shell. Values that are None or absent are
    left out."""
    given = []
    for name, field in flagged(model).items():
        value = values.get(name)
        if value is not None:
            given.append(f"{flag(name, field)} {_quoted(value)}")
    return " ".join(given)


def _quoted(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return shlex.quote(str(value))
