"""The part that only the protocol on a trained checkpoint has. Its map is in retrieval.py."""

from typing import ClassVar

from hybrid_core.results.part import Part, Record


class NotRun(Record):
    """A length that does not fit into memory, and why."""

    context_len: int
    why: str


class Checkpoint(Part):
    """What was asked of which checkpoint. `resumed_cells`: those that an earlier run had finished;
    `dropped`: a line on kept cells that could not be read back."""

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
