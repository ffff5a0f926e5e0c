"""A published quantisation scheme, put onto a design: which of its matrices are stored in which
format.

A matrix that several published modules make up (`in_proj` of a Gated DeltaNet) is left out where
one of them is."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_core.design.quantization import StoredWeights
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families.registry import FAMILIES
from hybrid_core.interop.module_names import OUTSIDE, parts_of
from hybrid_core.interop.quantization.methods import scheme_of
from hybrid_core.interop.quantization.scheme import Group, LayoutFields, Scheme
from hybrid_core.validation import SpecError, short

# What configs call it. The last two: MLX, and compressed-tensors in older files.
KEYS = ("quantization_config", "quantization", "compression_config")

Numbers = dict[str, list[int]]  # the layers, from 1, that have a part


def stored_weights(
    config: Any,
    spec: ArchSpec,
    family: str = "",
) -> tuple[StoredWeights, ...]:
    """The rules of a design's `quantization` that a published scheme comes to. `family`: the
    config's model_type. Raises SpecError with one line."""
    if not isinstance(config, Mapping):
        raise SpecError(f"quantization_config: {short(config)} - must be a mapping")
    scheme = scheme_of(config)
    where: dict[LayoutFields, Numbers] = defaultdict(lambda: defaultdict(list))
    for part, modules, number in _matrices(spec):
        if part.startswith("experts.") and not _experts_are_quantised(scheme, family):
            continue
        group = _group_of(scheme, part, modules, number)
        if group is None:
            continue
        numbers = where[group.layout][part]
        if number is not None:
            numbers.append(number + 1)
    everywhere = _layers_with_each_part(spec)
    rules: list[StoredWeights] = []
    for layout, parts in where.items():
        rules += _rules(layout, parts, everywhere)
    return tuple(rules)


def _matrices(spec: ArchSpec) -> Iterator[tuple[str, tuple[str, ...], int | None]]:
    """Every matrix: its part, the modules behind it, and the layer from 0 (None outside them). A
    tied head has none of its own."""
    for number, layer in enumerate(spec.stack):
        for part, modules in parts_of(layer).items():
            yield part, modules, number
    for part, modules in OUTSIDE.items():
        if part != "head" or not spec.tie_embeddings:
            yield part, modules, None


def _layers_with_each_part(spec: ArchSpec) -> Numbers:
    found: Numbers = defaultdict(list)
    for number, layer in enumerate(spec.stack, start=1):
        for part in parts_of(layer):
            found[part].append(number)
    return found


def _experts_are_quantised(scheme: Scheme, family: str) -> bool:
    """Not where the class keeps all experts in one parameter and the method takes linear layers
    alone."""
    one_parameter = family in FAMILIES and FAMILIES[family].fused_experts
    return scheme.fused or not one_parameter


def _group_of(
    scheme: Scheme,
    part: str,
    modules: tuple[str, ...],
    number: int | None,
) -> Group | None:
    """The group that holds a part: one that names it, or else one of every linear layer; None where
    it is left out."""
    if scheme.left_out.hold(number, modules):
        return None
    for group in scheme.groups:
        if group.modules is not None and group.modules.hold(number, modules):
            return group
    if part in ("router", *OUTSIDE) and part not in scheme.also:
        return None
    return next((group for group in scheme.groups if group.modules is None), None)


def _rules(
    layout: LayoutFields,
    parts: Numbers,
    everywhere: Numbers,
) -> Iterator[StoredWeights]:
    """One rule for the parts that have the format in every layer, and one for each set of
    layers."""
    grouped: dict[tuple[int, ...] | None, list[str]] = defaultdict(list)
    for part, numbers in parts.items():
        in_all = part in OUTSIDE or numbers == everywhere[part]
        grouped[None if in_all else tuple(numbers)].append(part)
    for layers, names in grouped.items():
        short_names = _short_names(names, everywhere, layers is None)
        yield StoredWeights.make(**dict(layout), parts=short_names, layers=layers)


def _short_names(
    names: list[str],
    everywhere: Numbers,
    all_layers: bool,
) -> tuple[str, ...]:
    """`linear` for every matrix of the layers, `attention` for every matrix of a kind."""
    inside = {part for part in everywhere if part != "router"}
    if all_layers and inside <= set(names):
        return ("linear", *(name for name in names if name not in inside))
    found: dict[str, None] = {}
    for name in names:
        kind = name.partition(".")[0]
        whole = {part for part in everywhere if part.partition(".")[0] == kind}
        found[kind if whole <= set(names) else name] = None
    return tuple(found)
