"""Texts that a user gives to a probe, kept in the data folder under names of our own. No torch."""

import hashlib
from pathlib import Path

from hybrid_core.data import NotWritten, data_dir, folder, write_whole
from hybrid_core.validation import SpecError


def keep(text: bytes, at_least: int = 1) -> Path:
    """Store a text under its digest and return its path.

    Raises SpecError, in one line, if it has fewer than `at_least` bytes or cannot be written.
    """
    if len(text) < at_least:
        raise SpecError(
            f"text: {len(text):,} bytes - at least {at_least:,} are needed for this trained length"
        )
    name = f"{hashlib.sha256(text).hexdigest()[:16]}.txt"
    try:
        path = folder(data_dir() / "texts") / name
        write_whole(path, text)
    except NotWritten as error:
        raise SpecError(f"text: {error}") from None
    return path
