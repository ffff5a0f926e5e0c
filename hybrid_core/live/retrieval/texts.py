"""Keeps the texts that users upload for a probe, in the data folder. No torch."""

import hashlib
from pathlib import Path

from hybrid_core.data import NotWritten, data_dir, folder, write_whole
from hybrid_core.validation import SpecError


def keep(text: bytes, at_least: int = 1) -> Path:
    """Write a text to a file named after its SHA-256 digest, and return the path.

    Raises SpecError if the text has fewer than `at_least` bytes or cannot be written.
    """
    if len(text) < at_least:
        raise SpecError(
            f"text: {len(text):,} bytes - at least {at_least:,} are needed for this trained length"
        )
    digest = hashlib.sha256(text).hexdigest()[:16]
    try:
        path = folder(data_dir() / "texts") / f"{digest}.txt"
        write_whole(path, text)
    except NotWritten as error:
        raise SpecError(f"text: {error}") from None
    return path
