"""Error messages about a design, with the keys of the config that it was read from.

A config's `rms_norm_eps` becomes our `norm_eps`, which is the name in our error messages. This
module puts the config's own key back, using the tables that read it."""

import re
from collections.abc import Mapping
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families.table import Tables
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.swa import SwaMixer

Keys = dict[str, str]  # an attribute of one part -> the config's key

# The kind of part that a section describes if it has no `kind`.
_USUAL_KINDS = {"ssm": "mamba2", "ffn": "swiglu"}


def with_config_keys(
    line: str,
    design: Mapping[str, Any],
    config: Mapping[str, Any],
    tables: Tables,
) -> str:
    """An error message about `design`, with the keys of `config`, which `tables` read.

    `attention.n_heads: 30 - must be divisible by n_kv_heads (8)` comes back as
    `num_attention_heads: 30 - must be divisible by num_key_value_heads (8)`. If the design's value
    differs from the config's, it was derived from several fields. Then our name stays."""
    path, colon, rest = line.partition(": ")
    *outer, ours = path.split(".")
    kind, part = _part_at(design, outer)
    same: Keys = {}
    for attribute, key in _keys_of(kind, tables).items():
        if key in config and part.get(attribute) == config[key]:
            same[attribute] = key
    if ours not in same:
        return line
    for attribute, key in same.items():
        # our rules name another attribute with its value: `n_kv_heads (8)`
        rest = re.sub(rf"\b{attribute}(?= \()", key, rest)
    return f"{same[ours]}{colon}{rest}"


def _part_at(design: Mapping[str, Any], path: list[str]) -> tuple[str, Mapping[str, Any]]:
    """The kind of the part at a path, and its fields. The whole design has the kind ""."""
    kind = ""
    part: Any = design
    for step in path:
        part = part.get(step)
        if not isinstance(part, Mapping):
            return "", {}
        kind = part.get("kind") or _USUAL_KINDS.get(step, step)
    return kind, part


def _keys_of(kind: str, tables: Tables) -> Keys:
    """The config's key for each attribute of a kind of part."""
    found: Keys = {}
    for part_type, table in tables.items():
        for field in table.fields.values():
            owner, _, ours = field.ours.rpartition(".")
            owner_kind = _USUAL_KINDS.get(owner, owner)
            if (owner_kind or _kind_of(part_type)) == kind:
                found[ours] = field.key
    if kind == AttentionMixer.kind and SwaMixer in tables:
        # the section `attention` also describes the heads of windowed layers
        for field in tables[SwaMixer].fields.values():
            found.setdefault(field.ours, field.key)
    return found


def _kind_of(part_type: type[Any]) -> str:
    if part_type is ArchSpec:
        return ""
    tag = part_type.model_fields.get("kind")  # a feed-forward's; mixers have theirs on the class
    return str(tag.default if tag else part_type.kind)
