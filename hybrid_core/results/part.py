"""What all parts of a result have in common: how they are stored, and how stored ones are read."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

VERSION = 1


class Unreadable(ValueError):
    """A stored part that is not what its model says: one line that says what is wrong with it."""


class Record(BaseModel):
    """A frozen piece of a result. Unknown keys are ignored: a later version may have added some."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def record(self) -> dict[str, Any]:
        """As it is stored: the fields that were given, under the names that JSON has for them."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Part(Record):
    """One part of a run's result, stored under the name `part`.

    Fields with a default are those that an earlier version did not store, or that only some kinds
    of run have. `version` says in which form a part is stored. It is not written while there is
    only one form, so a part without it has version 1."""

    part: ClassVar[str]
    version: int = VERSION

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """A stored part. Raises Unreadable."""
        version = data.get("version", VERSION)
        if version != VERSION:
            raise Unreadable(
                f"its part {cls.part!r} has version {version!r}, and this program reads {VERSION}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise Unreadable(f"its part {cls.part!r} {_first_problem(error)}") from None


class Missing(Record):
    """Something that was asked for and not measured, or not with all its trials: `measured` of
    `of`, and why not all."""

    why: str
    measured: int = 0
    of: int = 0


def _first_problem(error: ValidationError) -> str:
    """What the first of the problems is, in a few words."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"lacks {key!r}"
    return f"does not hold what it should ({key}: {first['msg'].lower()})"
