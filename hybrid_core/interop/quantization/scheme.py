"""Quantisation schemes (groups of matrices, each in one layout), and helpers that read the fields
of a `quantization_config`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hybrid_core.interop.fields import is_whole
from hybrid_core.interop.quantization.module_lists import Modules
from hybrid_core.validation import SpecError, nearest, short

Config = Mapping[str, Any]
LayoutFields = tuple[tuple[str, Any], ...]  # the fields of StoredWeights that describe a layout

INTEGERS = (2, 3, 4, 5, 6, 8)  # bits per element


class Group(NamedTuple):
    """Matrices in one layout: those of `modules`, or of all linear layers (None)."""

    layout: LayoutFields
    modules: Modules | None = None


class Scheme(NamedTuple):
    """The groups of a config, and the modules that it leaves unquantised.

    A group that names a matrix takes precedence over a group of all linear layers. `also`: parts
    that the method quantises in addition to linear layers, such as the head. `fused`: whether the
    method quantises experts that a class keeps in a single parameter."""

    groups: list[Group]
    left_out: Modules
    also: tuple[str, ...] = ()
    fused: bool = True


def together(layouts: Mapping[str, LayoutFields]) -> Iterator[Group]:
    """One group per layout. `layouts`: the layout of each module."""
    modules: dict[LayoutFields, list[str]] = defaultdict(list)
    for name, found in layouts.items():
        modules[found].append(name)
    for found, names in modules.items():
        yield Group(found, Modules(names))


# ---------------------------------------------------------------- layouts


def layout(**fields: Any) -> LayoutFields:
    """The given fields of StoredWeights, as a hashable tuple."""
    return tuple(fields.items())


PER_CHANNEL_FP8 = layout(format="fp8", rows=1, columns=0)  # one scale per output channel


def integer(bits: int, group: int, scale_bits: int) -> LayoutFields:
    """Integers of `bits` bits. `group` elements of a row share a scale; 0: the whole row does."""
    return layout(
        format=f"int{bits}",
        rows=1,
        columns=group,
        scale_bits=scale_bits,
    )


def block_fp8(config: Config, key: str) -> LayoutFields | None:
    """FP8 with a float32 scale per block of rows and columns (DeepSeek-V3). None if the field is
    absent."""
    sides = config.get(key)
    if sides is None:
        return None
    is_pair = isinstance(sides, list) and len(sides) == 2
    if not is_pair or not all(is_whole(side) and side > 0 for side in sides):
        raise refused(key, sides, "must be two whole numbers above 0")
    rows, columns = sides
    return layout(format="fp8", rows=rows, columns=columns)


# ---------------------------------------------------------------- fields


def refused(key: str, value: Any, rule: str) -> SpecError:
    """The error to raise for a field: its key, its value and the rule."""
    return SpecError(f"quantization_config.{key}: {short(value)} - {rule}")


def names(config: Config, *keys: str) -> Modules:
    """The modules listed under any of the keys."""
    found: list[str] = []
    for key in keys:
        found += name_list(key, config.get(key) or [])
    return Modules(found)


def name_list(key: str, value: Any) -> list[str]:
    """The value, if it is a list of names."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    raise refused(key, value, "must be a list of module names")


def number(
    config: Config,
    key: str,
    default: int,
    allowed: Iterable[int] | None = None,
) -> int:
    """A whole number, one of `allowed` if that is given. Null means the default."""
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
    """True or false; null means the default."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refused(key, value, "must be true or false")
    return value


def group_size(config: Config, default: int) -> int:
    """How many elements of a row share a scale. 0 means the whole row, which config files write as
    -1."""
    size = number(config, "group_size", default)
    if size == -1:
        return 0
    if not 8 <= size <= 2**16:
        raise refused("group_size", size, "must be from 8 to 65,536, or -1 for a whole row")
    return size


def known(word: Any, words: Mapping[str, Any], key: str) -> Any:
    """The value of a word in `words`. The error for an unknown word suggests the nearest known
    ones."""
    if isinstance(word, str) and word in words:
        return words[word]
    raise refused(key, word, f"must be {nearest(word, words)}")
