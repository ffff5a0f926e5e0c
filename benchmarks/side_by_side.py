"""Timing in turns, and the check before it: a wrong result is never timed."""

import time
from collections.abc import Callable

from torch import Tensor

Work = Callable[[], object]


class Mismatch(RuntimeError):
    """Two results that should agree do not."""


def best(works: dict[str, Work], turns: int) -> dict[str, float]:
    """The shortest time of each in seconds. They take turns, after one untimed call each."""
    seconds: dict[str, float] = dict.fromkeys(works, float("inf"))
    for work in works.values():
        work()
    for _ in range(turns):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def same(
    ours: Tensor,
    theirs: Tensor,
    what: str,
    tolerance: float = 1e-3,
) -> float:
    """The largest difference, relative to the largest value.

    Raises Mismatch if it is over `tolerance` or not a number.
    """
    expected = theirs.float()
    difference = (ours.float() - expected).abs().max()
    error = float(difference / expected.abs().max())
    print(f"  {what}: differs by {error:.1e}", flush=True)
    if not error <= tolerance:
        raise Mismatch(
            f"{what}: results differ by {error:.1e}, {tolerance:.0e} is allowed; not timed"
        )
    return error
