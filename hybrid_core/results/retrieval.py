"""The parts of a retrieval run: the proxy, its training, its map, and what the map shows."""

from typing import ClassVar

from hybrid_core.results.part import Missing, Part, Record


class Proxy(Part):
    """The small design that was trained. `pattern`: its layers. `design_pattern`: the layers of the
    design that it represents. `note`: how the proxy was made."""

    part: ClassVar[str] = "proxy"
    spec_yaml: str = ""
    pattern: str
    design_pattern: str = ""
    params: int
    trained_len: int
    n_needles: int = 0
    note: str


class CurvePoint(Record):
    """A point of the training curve. `loss` is None if it was not finite."""

    tokens: int
    accuracy: float
    stage: str
    length: int
    loss: float | None
    seconds: float


class TrainingRecord(Record):
    """How a proxy was trained.

    `tokens_to_learn`: training tokens until it recalled at the trained length, or None if it never
    did. `ended`: why training ended; empty while it is running."""

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
    """One cell of a map: how many of `trials` values were recalled in full, with the 95 % interval.

    `symbols`: the share of right symbols. `haystack_variance`: the variance of the number of
    recalled needles between haystacks. All cells of a length share it; it is None for a single
    trial. Cells of checkpoints and of the first version have neither field."""

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
    """A context length that was not tested with all its trials."""

    context_len: int


class Map(Part):
    """Recall by context length and depth. `trained_len` is None for a checkpoint. Cells are added
    row by row while the run goes on."""

    part: ClassVar[str] = "map"
    depths: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    trained_len: int | None = None
    trials: int = 0
    cells: tuple[Cell, ...] = ()
    not_measured: tuple[MissingLength, ...] = ()


class Scores(Part):
    """The few numbers for comparing designs. Shares are means over all depths. The first version
    stored no interval for the effective context."""

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
    """Whether the proxy learnt its task, whether the map is a finding about the design, and a text
    that explains both."""

    part: ClassVar[str] = "verdict"
    learnt: bool
    finding: bool
    text: str
