"""The parts of a retrieval run: the proxy, its training, its map, and what may be read from it."""

from typing import ClassVar

from hybrid_core.results.part import Missing, Part, Record


class Proxy(Part):
    """The small design that was trained, and how it was made. `pattern`: its layers;
    `design_pattern`: those of the design that it stands for."""

    part: ClassVar[str] = "proxy"
    spec_yaml: str = ""
    pattern: str
    design_pattern: str = ""
    params: int
    trained_len: int
    n_needles: int = 0
    note: str


class CurvePoint(Record):
    """A moment of training. `loss` is None where it was no number."""

    tokens: int
    accuracy: float
    stage: str
    length: int
    loss: float | None
    seconds: float


class TrainingRecord(Record):
    """How a proxy learnt. `tokens_to_learn`: training tokens until the trained length was recalled,
    None where it never was; `ended`: why training ended, empty while it goes on."""

    planned_tokens: int = 0
    tokens: int
    steps: int = 0
    seconds: float = 0.0
    accuracy: float
    stage: str = ""
    length: int
    tokens_to_learn: int | None
    ended: str
    curve: tuple[CurvePoint, ...]


class Training(TrainingRecord, Part):
    """The training of a retrieval run's proxy."""

    part: ClassVar[str] = "training"


class Cell(Record):
    """One cell of a map: whole values recalled of `trials`, with their 95 % interval.

    `symbols`: the share of right symbols. `haystack_variance`: how much the number of recalled
    needles varies from haystack to haystack, which all cells of a length have in common; None for
    a single trial. A checkpoint's cells have neither, nor have those of the first version."""

    context_len: int
    depth: float
    correct: int
    trials: int
    accuracy: float
    low: float
    high: float
    symbols: float | None = None
    haystack_variance: float | None = None


class MissingLength(Missing):
    """A length that was not asked with all its trials."""

    context_len: int


class Map(Part):
    """Recall by context and depth. `trained_len` is None for a checkpoint. Cells grow row by row
    while the run goes on."""

    part: ClassVar[str] = "map"
    depths: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    trained_len: int | None = None
    trials: int = 0
    cells: tuple[Cell, ...] = ()
    not_measured: tuple[MissingLength, ...] = ()


class Scores(Part):
    """The few numbers that compare designs. Shares are means over all depths. The first version
    stored no interval of the effective context."""

    part: ClassVar[str] = "scores"
    at_trained_len: float | None = None
    at_1_5x: float | None = None
    effective_context: int
    effective_context_low: int | None = None
    effective_context_high: int | None = None
    censored: bool = False
    tokens_to_learn: int | None = None
    trained_len: int = 0
    seconds: float | None = None


class Verdict(Part):
    """Whether the proxy learnt its task, whether the map is a finding, and both in words."""

    part: ClassVar[str] = "verdict"
    learnt: bool
    finding: bool
    text: str
