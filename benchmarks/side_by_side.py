"""Timing in turns, and the check before it: nothing that is wrong is timed."""

import time
from collections.abc import Callable

from torch import Tensor

Work = Callable[[], object]


class Mismatch(RuntimeError):
    """Two results that should agree do not."""


def best(works: dict[str, Work], turns: int) -> dict[str, float]:
    """Least seconds of each, taken in turns."""
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
    """The largest difference relative to the largest value. Raises Mismatch where it is over
    `tolerance`, or no number."""
    error = float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
    print(f"  {what}: differs by {error:.1e}", flush=True)
    if not error <= tolerance:
        raise Mismatch(
            f"{what}: results differ by {error:.1e}, {tolerance:.0e} is allowed; not timed"
        )
    return error
