"""How a job stores results, reports progress, and refuses to start. No torch."""

from collections.abc import Callable
from typing import Any

from hybrid_core.results.part import Part

# Called with a part's name and data, as soon as the part is ready.
Store = Callable[[str, dict[str, Any]], None]
# Called with the fraction done, and what is being done.
Report = Callable[[float, str], None]


class DoesNotFit(RuntimeError):
    """The work needs more memory than the device has free."""


def put(store: Store, part: Part) -> None:
    """Store a part of the result."""
    store(part.part, part.record())
