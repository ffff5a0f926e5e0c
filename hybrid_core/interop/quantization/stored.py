"""The format in which a published quantisation scheme stores each matrix of a design.

One of our matrices may be several modules in the checkpoint (`in_proj` of a Gated DeltaNet). It is
unquantised if one of them is."""

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

KEYS = (
    "quantization_config",
    "quantization",  # MLX
    "compression_config",  # compressed-tensors in older files
)

Numbers = dict[str, list[int]]  # the layers, from 1, that have a part
Matrix = tuple[str, tuple[str, ...], int | None]  # part, modules, layer from 0 (None: outside)


def stored_weights(
    config: Any,
    spec: ArchSpec,
    family: str = "",
) -> tuple[StoredWeights, ...]:
    """A published scheme as the rules of a design's `quantization`. `config`: the
    `quantization_config`; `family`: the config's model_type. Raises SpecError with one line."""
    if not isinstance(config, Mapping):
        raise SpecError(f"quantization_config: {short(config)} - must be a mapping")
    scheme = scheme_of(config)
    by_layout: dict[LayoutFields, Numbers] = {}
    for part, modules, number in _matrices(spec):
        if part.startswith("experts.") and not _experts_are_quantised(scheme, family):
            continue
        group = _group_of(scheme, part, modules, number)
        if group is None:
            continue
        numbers = by_layout.setdefault(group.layout, {}).setdefault(part, [])
        if number is not None:
            numbers.append(number + 1)
    everywhere = _layers_with_each_part(spec)
    rules: list[StoredWeights] = []
    for layout, parts in by_layout.items():
        rules += _rules(layout, parts, everywhere)
    return tuple(rules)


def _matrices(spec: ArchSpec) -> Iterator[Matrix]:
    """Every matrix of the design. A tied head has no separate matrix."""
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
    """Whether the method quantises the experts. Some methods quantise only linear layers, and some
    classes keep all experts in one parameter, which is not a linear layer."""
    if scheme.fused or family not in FAMILIES:
        return True
    return not FAMILIES[family].fused_experts


def _group_of(
    scheme: Scheme,
    part: str,
    modules: tuple[str, ...],
    number: int | None,
) -> Group | None:
    """The group of a part: a group that names it, or else a group of all linear layers. None if the
    part is not quantised."""
    if scheme.left_out.hold(number, modules):
        return None
    of_linear_layers = None
    for group in scheme.groups:
        if group.modules is None:
            of_linear_layers = of_linear_layers or group
        elif group.modules.hold(number, modules):
            return group
    is_linear_layer = part != "router" and part not in OUTSIDE
    if is_linear_layer or part in scheme.also:
        return of_linear_layers
    return None


def _rules(
    layout: LayoutFields,
    parts: Numbers,
    everywhere: Numbers,
) -> Iterator[StoredWeights]:
    """One rule for the parts that have the layout in every layer, and one for each other set of
    layers. `everywhere`: all layers that have each part."""
    names_by_layers: dict[tuple[int, ...] | None, list[str]] = defaultdict(list)
    for part, numbers in parts.items():
        layers: tuple[int, ...] | None = tuple(numbers)
        if part in OUTSIDE or numbers == everywhere[part]:
            layers = None
        names_by_layers[layers].append(part)
    for layers, names in names_by_layers.items():
        yield StoredWeights.make(
            **dict(layout),
            parts=_short_names(names, everywhere, layers is None),
            layers=layers,
        )


def _short_names(
    names: list[str],
    everywhere: Numbers,
    all_layers: bool,
) -> tuple[str, ...]:
    """The shortest names for these matrices: `linear` for all matrices of the layers, `attention`
    for all of one kind."""
    in_layers = everywhere.keys() - {"router"}
    if all_layers and in_layers <= set(names):
        others = [name for name in names if name not in in_layers]
        return ("linear", *others)
    found: dict[str, None] = {}  # each once, in order
    for name in names:
        kind = _kind(name)
        all_of_kind = {part for part in everywhere if _kind(part) == kind}
        is_whole_kind = all_of_kind <= set(names)
        found[kind if is_whole_kind else name] = None
    return tuple(found)


def _kind(part: str) -> str:
    return part.partition(".")[0]
