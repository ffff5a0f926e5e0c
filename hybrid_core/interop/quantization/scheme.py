"""What a quantisation scheme says, and how its fields are read: groups of matrices, each in one
layout."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hybrid_core.interop.fields import is_whole
from hybrid_core.interop.quantization.module_lists import Modules
from hybrid_core.validation import SpecError, nearest, short

Config = Mapping[str, Any]
LayoutFields = tuple[tuple[str, Any], ...]  # the fields of StoredWeights that say a format's layout

INTEGERS = (2, 3, 4, 5, 6, 8)


class Group(NamedTuple):
    """Matrices in one format: of the `modules`, or of every linear layer (None)."""

    layout: LayoutFields
    modules: Modules | None = None


class Scheme(NamedTuple):
    """Groups, and the modules that they leave out.

    A group that names a matrix comes before one of every linear layer. `also`: parts that count as
    linear layers too, such as the head. `fused`: whether experts that are one parameter are
    quantised like linear layers."""

    groups: list[Group]
    left_out: Modules
    also: tuple[str, ...] = ()
    fused: bool = True


def together(layouts: Mapping[str, LayoutFields]) -> Iterator[Group]:
    """One group for the modules of each layout."""
    modules: dict[LayoutFields, list[str]] = defaultdict(list)
    for name, found in layouts.items():
        modules[found].append(name)
    for found, names in modules.items():
        yield Group(found, Modules(names))


# ---------------------------------------------------------------- layouts


def layout(**fields: Any) -> LayoutFields:
    """Fields of StoredWeights, those that are None left out."""
    return tuple((key, value) for key, value in fields.items() if value is not None)


PER_CHANNEL_FP8 = layout(format="fp8", rows=1, columns=0)


def integer(bits: int, group: int, scale_bits: int) -> LayoutFields:
    """Integers of so many bits, `group` of a row sharing a scale; 0: all of the row."""
    return layout(
        format=f"int{bits}",
        rows=1,
        columns=group,
        scale_bits=scale_bits,
    )


def block_fp8(config: Config, key: str) -> LayoutFields | None:
    """FP8 with a float32 scale for each block of rows and columns; None where the field is
    absent."""
    value = config.get(key)
    if value is None:
        return None
    sides = value if isinstance(value, list) else []
    if len(sides) != 2 or not all(is_whole(n) and n > 0 for n in sides):
        raise refused(key, value, "must be two whole numbers above 0")
    return layout(format="fp8", rows=sides[0], columns=sides[1])


# ---------------------------------------------------------------- fields


def refused(key: str, value: Any, rule: str) -> SpecError:
    """The error to raise: key, value, rule."""
    return SpecError(f"quantization_config.{key}: {short(value)} - {rule}")


def names(config: Config, *keys: str) -> Modules:
    """The modules that any of the keys lists."""
    found: list[str] = []
    for key in keys:
        value = config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise refused(key, value, "must be a list of names of modules")
        found += value
    return Modules(found)


def number(
    config: Config,
    key: str,
    default: int,
    allowed: Iterable[int] | None = None,
) -> int:
    """A whole number, one of those allowed."""
    value = config.get(key)
    if value is None:
        return default
    if allowed is None:
        rule = "a whole number"
        valid = is_whole(value)
    else:
        rule = f"one of {', '.join(map(str, allowed))}"
        valid = is_whole(value) and value in allowed
    if not valid:
        raise refused(key, value, f"must be {rule}")
    return int(value)


def flag(config: Config, key: str, default: bool = False) -> bool:
    """True or false."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refused(key, value, "must be true or false")
    return value


def group_size(config: Config, default: int) -> int:
    """Elements of a row that share a scale; 0 for all of them, which files write as -1."""
    size = number(config, "group_size", default)
    if size == -1:
        return 0
    if not 8 <= size <= 2**16:
        raise refused("group_size", size, "must be from 8 to 65,536, or -1 for a whole row")
    return size


def known(word: Any, words: Mapping[str, Any], key: str) -> Any:
    """What a word stands for. A refusal shows the nearest words that are known."""
    if isinstance(word, str) and word in words:
        return words[word]
    raise refused(key, word, f"must be {nearest(word, words)}")
