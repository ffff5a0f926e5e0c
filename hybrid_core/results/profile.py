"""The parts of a profile. Bytes, seconds, FLOPs, tokens/s and joules throughout."""

from typing import ClassVar, Literal

from hybrid_core.results.part import Part, Record

Measured = Literal["measured"]


class Counts(Record):
    """FLOPs by fvcore, by torch's FlopCounterMode, and by the closed form."""

    fvcore: int
    torch: int
    exact: int

    @property
    def agree(self) -> bool:
        return self.fvcore == self.torch == self.exact


class Trace(Part):
    """FLOPs of one sequence of `seq_len` tokens with all logits, and of one decode step there."""

    part: ClassVar[str] = "trace"
    seq_len: int
    convention: Literal["traced"] = "traced"
    forward: Counts
    decode: Counts


class Ceilings(Part):
    """What the device can do at most, and what predictions rest on. `matrix`: rows of the square
    matrices multiplied; `fp32_times`: how many times as fast the same product is in fp32."""

    part: ClassVar[str] = "ceilings"
    flops_per_s: float
    bytes_per_s: float
    dtype: str
    matrix: int = 0
    fp32_times: float = 1.0
    convention: Measured = "measured"
    basis: str


class CacheRow(Record):
    """Bytes of one sequence's cache: of the live tensors, by the closed form, by the paper's."""

    context_len: int
    live_bytes: int
    exact_bytes: int
    paper_bytes: int


class LiveCache(Part):
    """The live cache at each total length that fits."""

    part: ClassVar[str] = "cache"
    convention: Measured = "measured"
    per: Literal["sequence"] = "sequence"
    rows: tuple[CacheRow, ...] = ()


class Prefill(Part):
    """Prefill speed. `chunk_tokens`: tokens of the prompt at a time, None where it was done at
    once; `shortened`: whether the budget was too small for the batch and prompt asked for."""

    part: ClassVar[str] = "prefill"
    median_s: float
    min_s: float
    max_s: float
    repeats: int
    convention: Measured = "measured"
    batch_size: int
    prompt_len: int
    chunk_tokens: int | None = None
    tokens_per_s: float
    predicted_tokens_per_s: float
    shortened: bool = False


class DecodeRow(Record):
    """Single decode steps at one context."""

    context_len: int
    tokens_per_s: float
    median_s: float
    min_s: float
    max_s: float
    repeats: int
    predicted_tokens_per_s: float


class Decode(Part):
    """Decode speed by context. `path`: how steps were called; earlier versions knew one way."""

    part: ClassVar[str] = "decode"
    convention: Measured = "measured"
    batch_size: int
    path: str | None = None
    rows: tuple[DecodeRow, ...]


class GenerationRow(Record):
    """Tokens/s from the prompt to one total length; `paper_tokens_per_s` where Table 13 has it."""

    total_len: int
    tokens_per_s: float
    latency_s: float = 0.0
    predicted_tokens_per_s: float
    paper_tokens_per_s: float | None = None


class NotGenerated(Record):
    """A total length that did not fit, and why."""

    total_len: int
    why: str


class Generation(Part):
    """The paper's figure, with what was done in words."""

    part: ClassVar[str] = "generation"
    convention: Measured = "measured"
    protocol: str
    paper_source: str | None = None
    rows: tuple[GenerationRow, ...]
    not_measured: tuple[NotGenerated, ...] = ()


class PredictedBytes(Record):
    """What the closed forms say of the peak."""

    weights: int
    cache: int
    activations: int
    total: int


class LiveActivations(Record):
    """Tensors alive at the widest moment of a short prefill, cache included."""

    prompt_len: int
    live_bytes: int
    exact_bytes: int


class PeakMemory(Part):
    """The peak of the whole run beside the closed forms. `what`: which memory was watched;
    `one_shot_activations`: what a prefill of the whole prompt at once would hold."""

    part: ClassVar[str] = "memory"
    convention: Measured = "measured"
    peak_bytes: int
    what: str
    context_len: int
    build_s: float
    activations: LiveActivations | None = None
    one_shot_activations: int | None = None
    predicted_bytes: PredictedBytes


class Idle(Record):
    """Watts of the board with the weights loaded and nothing to do, or why they are not known."""

    watts: float | None
    seconds: float | None
    why: str | None


class EnergyRow(Record):
    """Joules of counted work at one batch and context, or why they are not known."""

    phase: Literal["prefill", "decode"]
    batch_size: int
    context_len: int
    joules_per_token: float | None
    joules: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    why: str | None


class Stretch(Record):
    """Joules of a whole phase, as the first version read them."""

    joules: float | None


class WholeStretches(Record):
    """What the first version stored instead of rows."""

    decode: Stretch


class Energy(Part):
    """Joules a token. `error`: by the steps of the meter, as a share; `note`: why there is no
    meter. Runs of the first version have `parts` and no `rows`."""

    part: ClassVar[str] = "energy"
    convention: Measured = "measured"
    meter: str | None = None
    note: str
    error: float = 0.0
    idle: Idle | None = None
    rows: tuple[EnergyRow, ...] = ()
    parts: WholeStretches | None = None
