"""Every term in one line: on hover beside its control, and together on a page. Terms are in
profiles/glossary.yaml; kinds of layer bring their own line."""

from functools import cache

import yaml

from hybrid_core.data import PROFILES
from hybrid_core.mixers.registry import MIXERS


@cache
def groups() -> dict[str, dict[str, str]]:
    """Group -> term -> one line."""
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
    """The line of a term; of a dotted path such as `ssm.d_state` its own line or that of its last
    part. Raises KeyError."""
    lines = _lines()
    last_part = term.rpartition(".")[2]
    return lines.get(term) or lines[last_part]
