"""The parts of the three probes other than the needle test, each with its proxy's training."""

from typing import ClassVar

from pydantic import Field

from hybrid_core.results.part import Missing, Part, Record
from hybrid_core.results.retrieval import MissingLength, TrainingRecord


class RecallRow(Record):
    """The share of `answers` values that were recalled, with `n_pairs` pairs in the context."""

    n_pairs: int
    accuracy: float
    answers: int = 0


class MissingPairs(Missing):
    """A number of pairs that was not tested with all its trials."""

    n_pairs: int


class Recall(Part):
    """Multi-query associative recall: accuracy by the number of pairs in the context."""

    part: ClassVar[str] = "recall"
    trained_pairs: int
    training: TrainingRecord
    rows: tuple[RecallRow, ...] = ()
    not_measured: tuple[MissingPairs, ...] = ()
    note: str = ""


class CopyingRow(Record):
    """The share of `trials` in which the whole context was copied, with its 95 % interval."""

    context_len: int
    share: float
    low: float
    high: float
    trials: int = 0


class Copying(Part):
    """Selective copying: the share of whole copies by the length of the context."""

    part: ClassVar[str] = "copying"
    trained_len: int
    n_symbols: int = 0
    training: TrainingRecord
    rows: tuple[CopyingRow, ...] = ()
    not_measured: tuple[MissingLength, ...] = ()
    note: str = ""


class LossRow(Record):
    """The mean loss over positions `start` to `to`, or None if training diverged."""

    start: int = Field(validation_alias="from", serialization_alias="from")
    to: int
    nats_per_byte: float | None


class LossByPosition(Part):
    """Loss by position on the user's text. In `not_measured`, a trial is a window of the text."""

    part: ClassVar[str] = "text"
    trained_len: int
    training: TrainingRecord
    note: str = ""
    rows: tuple[LossRow, ...] = ()
    not_measured: tuple[Missing, ...] = ()
