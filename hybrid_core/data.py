"""Where data live: what ships with the repository, and what belongs to the user."""

import os
from pathlib import Path

import platformdirs

PROFILES = Path(__file__).resolve().parent.parent / "profiles"


def data_dir() -> Path:
    """Runs, logs, locks and calibrations: `HYBRID_DATA_DIR`, or the user's data folder. Made when missing."""
    path = Path(os.environ.get("HYBRID_DATA_DIR") or platformdirs.user_data_dir("hybrid-explorer"))
    path.mkdir(parents=True, exist_ok=True)
    return path
