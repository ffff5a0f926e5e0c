"""One-line definitions of terms, for tooltips and the Glossary page. Terms are defined in
profiles/glossary.yaml, and kinds of layer in their own files."""

from functools import cache

import yaml

from hybrid_core.data import PROFILES
from hybrid_core.mixers.registry import MIXERS


@cache
def groups() -> dict[str, dict[str, str]]:
    """The definitions by group: group -> term -> definition."""
    text = (PROFILES / "glossary.yaml").read_text("utf-8")
    found: dict[str, dict[str, str]] = yaml.safe_load(text)
    entries = (kind.entry for kind in MIXERS)
    return found | {"Kinds of layer": {entry.label: entry.meaning for entry in entries}}


@cache
def _lines() -> dict[str, str]:
    found: dict[str, str] = {}
    for terms in groups().values():
        found |= terms
    return found


def explain(term: str) -> str:
    """The definition of a term. A dotted path such as `ssm.d_state` falls back to the definition of
    its last part. Raises KeyError."""
    lines = _lines()
    last_part = term.rpartition(".")[2]
    return lines.get(term) or lines[last_part]
