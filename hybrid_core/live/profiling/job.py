"""How a job hands over what it finds, and says that it cannot begin. No torch."""

from collections.abc import Callable
from typing import Any

from hybrid_core.results.part import Part

Store = Callable[[str, dict[str, Any]], None]  # a part's name and data, as soon as it is known
Report = Callable[[float, str], None]  # the fraction done, and what is being done


class DoesNotFit(RuntimeError):
    """The work is larger than the device, said before anything was allocated."""


def put(store: Store, part: Part) -> None:
    """Hand over a part of the result as it is to be stored."""
    store(part.part, part.record())
