"""The parts of a profile. Units are bytes, seconds, FLOPs, tokens/s and joules."""

from typing import ClassVar, Literal

from hybrid_core.results.part import Part, Record

Measured = Literal["measured"]


class Counts(Record):
    """FLOPs as counted by fvcore, by torch's FlopCounterMode, and by the closed form."""

    fvcore: int
    torch: int
    exact: int

    @property
    def agree(self) -> bool:
        return self.fvcore == self.torch == self.exact


class Trace(Part):
    """FLOPs of one sequence of `seq_len` tokens with all logits, and of the decode step after
    it."""

    part: ClassVar[str] = "trace"
    seq_len: int
    convention: Literal["traced"] = "traced"
    forward: Counts
    decode: Counts


class Ceilings(Part):
    """The device's peak rates as measured, from which speeds are predicted.

    `matrix`: rows of the square matrices that were multiplied. `fp32_times`: how many times as fast
    the same product is in fp32."""

    part: ClassVar[str] = "ceilings"
    flops_per_s: float
    bytes_per_s: float
    dtype: str
    matrix: int = 0
    fp32_times: float = 1.0
    convention: Measured = "measured"
    basis: str


class CacheRow(Record):
    """Bytes of one sequence's cache: in the live tensors, by our closed form and by the paper's."""

    context_len: int
    live_bytes: int
    exact_bytes: int
    paper_bytes: int


class LiveCache(Part):
    """The cache of the live model, at each total length that fits."""

    part: ClassVar[str] = "cache"
    convention: Measured = "measured"
    per: Literal["sequence"] = "sequence"
    rows: tuple[CacheRow, ...] = ()


class Prefill(Part):
    """Prefill speed.

    `chunk_tokens`: how many tokens of the prompt were prefilled at a time, or None for all at once.
    `shortened`: whether the batch or the prompt was cut to stay within the budget."""

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
    """Single decode steps at one context length."""

    context_len: int
    tokens_per_s: float
    median_s: float
    min_s: float
    max_s: float
    repeats: int
    predicted_tokens_per_s: float


class Decode(Part):
    """Decode speed by context length. `path`: how steps were run; earlier versions had only one
    way."""

    part: ClassVar[str] = "decode"
    convention: Measured = "measured"
    batch_size: int
    path: str | None = None
    rows: tuple[DecodeRow, ...]


class GenerationRow(Record):
    """Generation from the prompt to one total length. `paper_tokens_per_s`: from Table 13, if the
    design is there."""

    total_len: int
    tokens_per_s: float
    latency_s: float = 0.0
    predicted_tokens_per_s: float
    paper_tokens_per_s: float | None = None


class NotGenerated(Record):
    """A total length that was skipped because it did not fit."""

    total_len: int
    why: str


class Generation(Part):
    """Generation by the paper's throughput protocol. `protocol` describes what was done."""

    part: ClassVar[str] = "generation"
    convention: Measured = "measured"
    protocol: str
    paper_source: str | None = None
    rows: tuple[GenerationRow, ...]
    not_measured: tuple[NotGenerated, ...] = ()


class PredictedBytes(Record):
    """The peak by the closed forms, in bytes."""

    weights: int
    cache: int
    activations: int
    total: int


class LiveActivations(Record):
    """Bytes of the tensors alive at the peak of a short prefill, cache included."""

    prompt_len: int
    live_bytes: int
    exact_bytes: int


class PeakMemory(Part):
    """The peak of the whole run, and what the closed forms predict.

    `what`: which memory was read. `one_shot_activations`: bytes of activations in a prefill of the
    whole prompt at once."""

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
    """Watts of the idle board with the weights loaded, or why they are unknown."""

    watts: float | None
    seconds: float | None
    why: str | None


class EnergyRow(Record):
    """Joules for a number of tokens at one batch size and context, or why they are unknown."""

    phase: Literal["prefill", "decode"]
    batch_size: int
    context_len: int
    joules_per_token: float | None
    joules: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    why: str | None


class Stretch(Record):
    """Joules of a whole phase, as the first version measured them."""

    joules: float | None


class WholeStretches(Record):
    """What the first version stored instead of rows."""

    decode: Stretch


class Energy(Part):
    """Joules per token. Runs of the first version have `parts` and no `rows`.

    `error`: the relative error due to the meter's resolution. `note`: why there is no meter."""

    part: ClassVar[str] = "energy"
    convention: Measured = "measured"
    meter: str | None = None
    note: str
    error: float = 0.0
    idle: Idle | None = None
    rows: tuple[EnergyRow, ...] = ()
    parts: WholeStretches | None = None
