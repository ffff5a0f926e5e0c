"""Names of classes that are loaded on first use, so that what names them imports no torch."""

from importlib import import_module
from typing import Any


def load(path: str) -> Any:
    """What "package.module:name" names, imported now."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
