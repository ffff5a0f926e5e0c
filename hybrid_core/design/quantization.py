"""Which parts of a model are stored in which format.

A format changes neither parameter counts nor matrix products. It sets how many bytes a matrix takes
in memory, including its scales."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hybrid_core.mixers.registry import MIXERS
from hybrid_core.stored import USUAL, Format, Layout
from hybrid_core.validation import Dim, Frozen, Length, exact_int, nearest, quiet, short

# The parts that a rule may name, and their matrices. `linear` means every matrix in the layers that
# is a linear layer in the published code.
MATRICES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "embedding": (),
    "head": (),
    "router": (),
    "latent": (),
    **dict.fromkeys(("ffn", "experts", "shared"), ("gate", "up", "down")),
    **{kind.entry.name: kind.entry.matrices for kind in MIXERS if kind.entry.matrices},
}


def _not_linear() -> frozenset[str]:
    """Matrices in the layers that are not linear layers, so `linear` does not include them: routers
    and block-diagonal gates."""
    found = {"router"}
    for kind in MIXERS:
        found.update(f"{kind.entry.name}.{matrix}" for matrix in kind.entry.not_linear)
    return frozenset(found)


NOT_LINEAR = _not_linear()
Bits = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=64)]


def _known_part(name: str) -> str:
    kind, dot, matrix = name.partition(".")
    if kind not in MATRICES:
        raise ValueError(f"must be {nearest(kind, MATRICES)}")
    if dot and matrix not in MATRICES[kind]:
        raise ValueError(f"must be {nearest(matrix, MATRICES[kind])} after the dot")
    return name


class StoredWeights(Frozen):
    """Matrices stored in `format`: those of `parts`, in every layer or only in `layers` (from 1).

    A part is a key of MATRICES (`attention`, `experts`) or one of its matrices (`attention.q`). The
    other fields override the format's usual layout: `rows` x `columns` elements share a scale of
    `scale_bits`, including the zero point. 0 means all rows or columns."""

    format: Format
    parts: Annotated[
        tuple[Annotated[str, AfterValidator(_known_part)], ...], Field(strict=False, min_length=1)
    ]
    layers: tuple[Dim, ...] | None = Field(
        default=None, strict=False, exclude_if=lambda value: value is None
    )
    rows: Length | None = quiet(None)
    columns: Length | None = quiet(None)
    scale_bits: Bits | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "StoredWeights":
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers: {short(list(self.layers))} - a layer is listed twice")
        return self

    @property
    def layout(self) -> Layout:
        """The format's usual layout with this rule's changes."""
        changed: dict[str, Any] = {}
        for key in ("rows", "columns"):
            value = getattr(self, key)
            if value is not None:
                changed[key] = value or None
        if self.scale_bits is not None:
            changed["scale_bits"] = self.scale_bits
        return USUAL[self.format]._replace(**changed)

    def holds(self, part: str, layer: int | None) -> bool:
        """Whether the rule covers `part` (`attention.q`, `router`) of a layer (from 1; None outside
        the layers)."""
        if self.layers is not None and layer not in self.layers:
            return False
        kind = part.partition(".")[0]
        if "linear" in self.parts and layer is not None and part not in NOT_LINEAR:
            return True
        return part in self.parts or kind in self.parts


def up_to(rules: Iterable[StoredWeights], n_layers: int) -> list[StoredWeights]:
    """The rules of a stack that is shortened to `n_layers`."""
    found = []
    for rule in rules:
        if rule.layers is None:
            found.append(rule)
            continue
        left = tuple(layer for layer in rule.layers if layer <= n_layers)
        if left:
            found.append(rule.model_copy(update={"layers": left}))
    return found
