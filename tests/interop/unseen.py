"""Tiny configs written by hand, one or more of each family: no published model has them."""

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "unseen_configs.json"
# Names are the family's, or `family-remark`.
UNSEEN: dict[str, dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))


def family_of(name: str) -> str:
    """The family of a config of UNSEEN."""
    return name.split("-", maxsplit=1)[0]


def config_of(name: str) -> dict[str, Any]:
    """A config of UNSEEN, with its model_type."""
    return {"model_type": family_of(name)} | UNSEEN[name]
