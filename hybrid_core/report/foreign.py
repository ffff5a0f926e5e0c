"""Runs that this program cannot show: another version stored them, or someone edited them."""

from hybrid_core.report.compare import facts
from hybrid_core.report.text.runs import run_table
from hybrid_core.results.part import Unreadable
from hybrid_core.runs.store import Run

# What reading a result raises if parts of it are missing or malformed.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)


def unreadable(run: Run) -> str | None:
    """Why a run cannot be shown, in one line; None if it can. To find out, this works out the run's
    text and its comparison."""
    if run.foreign:
        return run.foreign
    try:
        facts(run)
        run_table(run)
    except MALFORMED as error:
        return malformed(error)
    return None


def malformed(error: Exception) -> str:
    """One line on why a result cannot be read."""
    what = f"a part of its result does not hold what it should ({error})"
    if isinstance(error, Unreadable):
        what = str(error)
    return f"{what}: another version stored it, or it was edited"
