"""Lazy loading of classes by name, so that the code that names them does not import torch."""

from importlib import import_module
from typing import Any


def load(path: str) -> Any:
    """The object that "package.module:name" refers to, imported now."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
