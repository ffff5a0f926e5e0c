"""Published models: their original configs (profiles/models/configs/*.json), and their parameter
and cache counts from other sources (reference.csv)."""

import csv
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hybrid_core.costs.model import model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.built import not_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.validation import SpecError, short


class Model(NamedTuple):
    """A published model: its design, and its figures as quoted and as computed here.

    Figures: `total`, `embedding`, `non_embedding` and `active` parameters, and `cache_8k`, the
    bytes of one sequence's cache at 8,192 tokens with two bytes per element. `how`: how the quoted
    figures were counted. `not_built`: why our modules do not compute the model, or None if they
    do."""

    spec: ArchSpec
    family: str
    source: str
    how: str
    quoted: dict[str, int]
    computed: dict[str, int]
    not_built: str | None


_QUOTED = {
    "total": "total_params",
    "embedding": "embedding_params",
    "non_embedding": "nonembedding_params",
    "active": "active_params",
    "cache_8k": "cache_bytes_8k_bf16",
}


@cache
def models() -> dict[str, Model]:
    """All published models by name, in alphabetical order."""
    table = (PROFILES / "models" / "reference.csv").read_text("utf-8")
    rows = {row["name"]: row for row in csv.DictReader(table.splitlines())}
    return {name: _model(rows[name]) for name in sorted(rows, key=str.lower)}


def _model(row: dict[str, str]) -> Model:
    path = PROFILES / "models" / "configs" / f"{row['name']}.json"
    spec = spec_from_config(read_config(path), row["name"])
    costs = model_costs(spec)
    computed = costs.params()._asdict()
    computed["cache_8k"] = int(costs.cache_bytes(8192, "paper"))
    return Model(
        spec,
        row["family"],
        row["source"],
        row["how_measured"],
        quoted={key: int(row[column]) for key, column in _QUOTED.items()},
        computed=computed,
        not_built=not_built(spec),
    )


def resolve(name_or_path: str) -> ArchSpec:
    """The design that a user names: a preset, a published model, a YAML file or a config.json.
    Raises SpecError with one line."""
    if name_or_path in presets.names():
        return presets.get(name_or_path).spec
    if name_or_path in models():
        return models()[name_or_path].spec
    if name_or_path.endswith(".json"):
        path = Path(name_or_path)
        return spec_from_config(read_config(path), config_name(path))
    if not os.path.exists(name_or_path):
        rule = "neither a preset (see `python -m hybrid_core presets`) nor a file"
        raise SpecError(f"{short(name_or_path)} - {rule}")
    return ArchSpec.load(name_or_path)


def config_name(path: Path) -> str:
    """A name for the design of a config: the name of its file, or of its folder if the file is
    called config.json."""
    name = path.stem
    if name == "config":
        name = path.resolve().parent.name
    return name or "imported"
