"""The section `layers` of a design's YAML, the kind of Mamba in `ssm`, and the sections that each
kind of layer needs. The sections of one kind are in its file in mixers/."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from hybrid_core.design import placement as layout
from hybrid_core.mixers.mamba1 import Mamba1Section
from hybrid_core.mixers.mamba2 import Mamba2Section
from hybrid_core.mixers.registry import WRITTEN
from hybrid_core.validation import Dim, Frozen, quiet, short


class LayersSection(Frozen):
    """The kind of each layer: a strategy with ratio and placement, a strategy with indices, or a
    pattern of letters.

    `ffns`: one letter per layer, if the feed-forwards differ. F is the section `ffn`, - is none,
    and other letters are keys of the table `ffns`."""

    strategy: layout.Strategy = "custom"
    ratio: str | None = None
    placement: layout.Placement | None = None
    indices: tuple[Dim, ...] | None = Field(default=None, strict=False)
    pattern: str | None = None
    ffns: str | None = quiet(None)

    @model_validator(mode="before")
    @classmethod
    def _hints(cls, data: Any) -> Any:
        ratio = data.get("ratio") if isinstance(data, dict) else None
        if ratio is not None and not isinstance(ratio, str):
            raise ValueError(
                f'ratio: {short(ratio)} - must be text in quotes, e.g. "1:5" '
                "(YAML reads 1:5 without quotes as the number 65)"
            )
        return data

    @model_validator(mode="after")
    def _rules(self) -> "LayersSection":
        if self.ratio is not None:
            try:
                layout.parse_ratio(self.ratio)
            except ValueError as error:
                raise ValueError(f"ratio: {short(self.ratio)} - {error}") from None
        allowed = self._allowed_keys()
        self._check_keys(allowed)
        if self.strategy == "custom" and self.pattern is None:
            letters = ", ".join(layout.LETTERS)
            raise ValueError(
                "pattern: missing - strategy 'custom' needs a pattern of letters "
                f"({letters}), one per layer"
            )
        if "ratio" in allowed and self.ratio is None:
            raise ValueError(
                f"ratio: missing - strategy {self.strategy!r} needs a ratio (and placement), "
                "or indices"
            )
        if self.placement == "custom" and self.indices is None:
            raise ValueError("placement: 'custom' - needs indices")
        return self

    def _allowed_keys(self) -> tuple[str, ...]:
        """The other keys that the strategy takes."""
        if self.strategy == "custom":
            return ("pattern",)
        if self.strategy in layout.UNIFORM:
            return ()
        if self.indices is None:
            return ("ratio", "placement")
        if self.placement == "custom":
            return ("indices", "placement")
        return ("indices",)

    def _check_keys(self, allowed: tuple[str, ...]) -> None:
        """Raise ValueError for a key that the strategy does not take."""
        rule = "takes neither ratio, placement, indices nor pattern"
        if allowed:
            rule = f"takes {' and '.join(allowed)}"
        for key in ("ratio", "placement", "indices", "pattern"):
            value = getattr(self, key)
            if value is not None and key not in allowed:
                raise ValueError(f"{key}: {short(value)} - strategy {self.strategy!r} {rule}")

    def resolve(self, n_layers: int) -> str:
        """The pattern of letters for `n_layers`. Raises ValueError if the indices or the pattern do
        not fit that depth."""
        if self.pattern is not None:
            n_letters = len(self.pattern)
            if n_letters != n_layers:
                raise ValueError(
                    f"layers.pattern: {short(self.pattern)} - has {n_letters} letters, "
                    f"must have n_layers ({n_layers})"
                )
            return self.pattern
        if self.strategy in layout.UNIFORM:
            return layout.pattern(self.strategy, n_layers, ())
        if self.indices is not None:
            _check_indices(self.indices, n_layers)
            return layout.pattern(self.strategy, n_layers, self.indices)
        k = layout.n_with_attention(n_layers, layout.parse_ratio(self.ratio or ""))
        placed = layout.place(k, n_layers, self.placement or "middle")
        return layout.pattern(self.strategy, n_layers, placed)


def _check_indices(indices: tuple[int, ...], n_layers: int) -> None:
    """Raise ValueError for a layer that is listed twice or does not exist."""
    given = list(indices)
    for i in given:
        if given.count(i) > 1:
            raise ValueError(f"layers.indices: {short(given)} - layer {i} is listed twice")
    for i in given:
        if i > n_layers:
            raise ValueError(f"layers.indices: {i} - must be from 1 to n_layers ({n_layers})")


def _mamba2_unless_said(section: Any) -> Any:
    return {"kind": "mamba2"} | section if isinstance(section, dict) else section


SsmSection = Annotated[
    Mamba2Section | Mamba1Section, Field(discriminator="kind"), BeforeValidator(_mamba2_unless_said)
]


# The sections that describe a layer of each kind, by its letter.
SECTIONS: dict[str, tuple[str, ...]] = {
    letter: kind.entry.sections or () for letter, kind in WRITTEN.items()
}
