"""The section `layers` of a design's YAML, the choice of a Mamba in `ssm`, and which sections each
kind of layer needs. The sections of one kind are in its file in mixers/."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from hybrid_core.design import placement as layout
from hybrid_core.mixers.mamba1 import Mamba1Section
from hybrid_core.mixers.mamba2 import Mamba2Section
from hybrid_core.mixers.registry import WRITTEN
from hybrid_core.validation import Dim, Frozen, quiet, short


class LayersSection(Frozen):
    """Which layer is of which kind: a strategy with ratio and placement, or with indices, or a
    pattern of letters.

    `ffns`: the feed-forward of each layer, where they differ: F is the section `ffn`, - none, other
    letters are those of `ffns`."""

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
        given = [
            key
            for key in ("ratio", "placement", "indices", "pattern")
            if getattr(self, key) is not None
        ]
        if self.strategy == "custom":
            allowed: tuple[str, ...] = ("pattern",)
        elif self.strategy in layout.UNIFORM:
            allowed = ()
        elif self.indices is not None:
            allowed = ("indices", "placement") if self.placement == "custom" else ("indices",)
        else:
            allowed = ("ratio", "placement")
        for key in given:
            if key not in allowed:
                hint = (
                    f"takes {' and '.join(allowed)}"
                    if allowed
                    else "takes neither ratio, placement, indices nor pattern"
                )
                raise ValueError(
                    f"{key}: {short(getattr(self, key))} - strategy {self.strategy!r} {hint}"
                )
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

    def resolve(self, n_layers: int) -> str:
        """The pattern of letters for `n_layers`. Raises ValueError when indices or pattern do not
        fit that depth."""
        if self.pattern is not None:
            if len(self.pattern) != n_layers:
                given = short(self.pattern)
                raise ValueError(
                    f"layers.pattern: {given} - has {len(self.pattern)} letters, "
                    f"must have n_layers ({n_layers})"
                )
            return self.pattern
        if self.strategy in layout.UNIFORM:
            return layout.pattern(self.strategy, n_layers, ())
        if self.indices is not None:
            if len(set(self.indices)) < len(self.indices):
                twice = next(i for i in self.indices if self.indices.count(i) > 1)
                raise ValueError(
                    f"layers.indices: {short(list(self.indices))} - layer {twice} is named twice"
                )
            outside = [i for i in self.indices if i > n_layers]
            if outside:
                raise ValueError(
                    f"layers.indices: {outside[0]} - must be from 1 to n_layers ({n_layers})"
                )
            return layout.pattern(self.strategy, n_layers, self.indices)
        k = layout.n_expensive(n_layers, layout.parse_ratio(self.ratio or ""))
        return layout.pattern(
            self.strategy, n_layers, layout.place(k, n_layers, self.placement or "middle")
        )


def _mamba2_unless_said(section: Any) -> Any:
    return {"kind": "mamba2"} | section if isinstance(section, dict) else section


SsmSection = Annotated[
    Mamba2Section | Mamba1Section, Field(discriminator="kind"), BeforeValidator(_mamba2_unless_said)
]


# The sections that a layer of each kind is made from, by its letter.
SECTIONS: dict[str, tuple[str, ...]] = {
    letter: kind.entry.sections or () for letter, kind in WRITTEN.items()
}
