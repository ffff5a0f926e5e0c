"""The parts of the three other probes, each with the training of its own proxy."""

from typing import ClassVar

from pydantic import Field

from hybrid_core.results.part import Missing, Part, Record
from hybrid_core.results.retrieval import MissingLength, TrainingRecord


class RecallRow(Record):
    """Values recalled, as a share of `answers` asked for, with so many pairs in the context."""

    n_pairs: int
    accuracy: float
    answers: int = 0


class MissingPairs(Missing):
    """A number of pairs that was not asked with all its trials."""

    n_pairs: int


class Recall(Part):
    """Multi-query associative recall."""

    part: ClassVar[str] = "recall"
    trained_pairs: int
    training: TrainingRecord
    rows: tuple[RecallRow, ...] = ()
    not_measured: tuple[MissingPairs, ...] = ()
    note: str = ""


class CopyingRow(Record):
    """Contexts copied whole, as a share of `trials`, with its 95 % interval."""

    context_len: int
    share: float
    low: float
    high: float
    trials: int = 0


class Copying(Part):
    """Selective copying."""

    part: ClassVar[str] = "copying"
    trained_len: int
    n_symbols: int = 0
    training: TrainingRecord
    rows: tuple[CopyingRow, ...] = ()
    not_measured: tuple[MissingLength, ...] = ()
    note: str = ""


class LossRow(Record):
    """Mean loss at the positions `start` to `to`; None where training diverged."""

    start: int = Field(validation_alias="from", serialization_alias="from")
    to: int
    nats_per_byte: float | None


class LossByPosition(Part):
    """Loss on the user's text. `not_measured` counts windows of the text."""

    part: ClassVar[str] = "text"
    trained_len: int
    training: TrainingRecord
    note: str = ""
    rows: tuple[LossRow, ...] = ()
    not_measured: tuple[Missing, ...] = ()
