"""Every term in one line (profiles/glossary.yaml): on hover beside its control, and together on a
page."""

from functools import cache

import yaml

from hybrid_core.data import PROFILES


@cache
def groups() -> dict[str, dict[str, str]]:
    """Group -> term -> one line."""
    found: dict[str, dict[str, str]] = yaml.safe_load(
        (PROFILES / "glossary.yaml").read_text("utf-8")
    )
    return found


@cache
def _lines() -> dict[str, str]:
    return {term: line for terms in groups().values() for term, line in terms.items()}


def explain(term: str) -> str:
    """The line of a term; of a dotted path such as `ssm.d_state` its own line or that of its last
    part. Raises KeyError."""
    return _lines().get(term) or _lines()[term.rpartition(".")[2]]
