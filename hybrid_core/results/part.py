"""The base of all parts of a result: how a part is stored and how it is read back."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

VERSION = 1


class Unreadable(ValueError):
    """A stored part that its model cannot read. The message is one line."""


class Record(BaseModel):
    """A frozen piece of a result. Unknown keys are ignored: a later version may have added them."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def record(self) -> dict[str, Any]:
        """The stored form: the fields that were set, by their JSON names."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Part(Record):
    """One part of a run's result, stored under the name `part`.

    A field has a default if an earlier version did not store it, or if only some kinds of run have
    it. `version` is the version of the stored form. It is not written while there is only one form,
    so a part without it has version 1."""

    part: ClassVar[str]
    version: int = VERSION

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """Parse a stored part. Raises Unreadable."""
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
    """Something that was not measured, or only with `measured` of its `of` trials, and why."""

    why: str
    measured: int = 0
    of: int = 0


def _first_problem(error: ValidationError) -> str:
    """The first pydantic error, in a few words."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"lacks {key!r}"
    return f"has an invalid value ({key}: {first['msg'].lower()})"
