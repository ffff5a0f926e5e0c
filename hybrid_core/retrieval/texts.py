"""Texts that a user hands to a probe: kept in the data folder under names of our own. No torch."""

import hashlib
from pathlib import Path

from hybrid_core.data import data_dir
from hybrid_core.spec import SpecError


def keep(text: bytes, at_least: int = 1) -> Path:
    """Store a text under its digest and return where. Raises SpecError with one line when it has fewer than `at_least` bytes."""
    if len(text) < at_least:
        raise SpecError(f"text: {len(text):,} bytes - at least {at_least:,} are needed for this trained length")
    path = data_dir() / "texts" / f"{hashlib.sha256(text).hexdigest()[:16]}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    return path
