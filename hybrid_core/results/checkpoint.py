"""The part that only runs on a trained checkpoint have. Their map is in retrieval.py."""

from typing import ClassVar

from hybrid_core.results.part import Part, Record


class NotRun(Record):
    """A length that was skipped because it does not fit into memory."""

    context_len: int
    why: str


class Checkpoint(Part):
    """Which checkpoint was tested, and with which prompts.

    `resumed_cells`: how many cells come from an earlier run. `dropped`: a line about cells of an
    earlier run that could not be read."""

    part: ClassVar[str] = "checkpoint"
    path: str = ""
    task: str = ""
    prompt: tuple[str, ...] = ()
    needle: str = ""
    new_tokens: int = 0
    haystack: str = ""
    haystack_repeats: int = 1
    resumed_cells: int = 0
    dropped: str | None = None
    not_run: tuple[NotRun, ...] = ()
