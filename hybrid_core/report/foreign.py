"""Runs that this program cannot show: rows of another version, or edited by hand."""

from hybrid_core.report.compare import facts
from hybrid_core.report.text import run_table
from hybrid_core.runs.store import Run

# What reading a part of a result ends in where a key is missing or something else stands in its
# place.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)


def unreadable(run: Run) -> str | None:
    """Why a run cannot be shown, in one line; None where it can. What text and comparison say of it
    is worked out for that."""
    if run.foreign:
        return run.foreign
    try:
        facts(run)
        run_table(run)
    except MALFORMED as error:
        return malformed(error)
    return None


def malformed(error: Exception) -> str:
    """One line on what reading a result ended in."""
    what = (
        f"lacks {error}"
        if isinstance(error, KeyError)
        else f"does not hold what it should ({error})"
    )
    return f"a part of its result {what}: another version stored it, or it was edited"
