"""Where the data that ship with the repository live."""

from pathlib import Path

PROFILES = Path(__file__).resolve().parent.parent / "profiles"
