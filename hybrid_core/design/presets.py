"""The paper's designs by name (profiles/presets/*.yaml; the first comment line of each gives its
source)."""

from functools import cache
from typing import NamedTuple

from hybrid_core.data import PROFILES
from hybrid_core.design.spec import ArchSpec
from hybrid_core.validation import SpecError, short

FIRST = "inter-1to5-1b"  # the design that the Compose page opens with


TABLE2 = ("llama-1b", "swa-1to5-1b", "mamba-1b", "inter-1to5-1b", "intra-1to5-1b")


class Preset(NamedTuple):
    """A design and the source of its dimensions."""

    spec: ArchSpec
    source: str


@cache
def names() -> tuple[str, ...]:
    """Every preset's name, sorted."""
    paths = (PROFILES / "presets").glob("*.yaml")
    return tuple(sorted(path.stem for path in paths))


@cache
def ordered() -> tuple[str, ...]:
    """Every name in display order: the five of Table 2, then narrow to wide, and last the many
    variants of Tables 18 and 19."""

    def place(name: str) -> tuple[bool, bool, int, str]:
        is_variant = name.count("-") > 3
        return name not in TABLE2, is_variant, get(name).spec.d_model, name

    return tuple(sorted(names(), key=place))


@cache
def get(name: str) -> Preset:
    """The preset called `name`. Raises SpecError for an unknown name."""
    if name not in names():
        raise SpecError(
            f"preset: {short(name)} - unknown; `python -m hybrid_core presets` lists them"
        )
    text = (PROFILES / "presets" / f"{name}.yaml").read_text("utf-8")
    source = []
    for line in text.splitlines():
        if line.startswith("#"):
            source.append(line.removeprefix("#").strip())
    return Preset(ArchSpec.from_yaml(text), " ".join(source))
