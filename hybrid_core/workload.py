"""The workload of a cost or a profile: the number of sequences, their length, and the dtypes."""

from typing import Annotated, Literal, Protocol

from pydantic import Field

from hybrid_core.options import Flag
from hybrid_core.stored import COMPUTE_BYTES, ComputeDtype, WeightFormat
from hybrid_core.validation import Frozen

CacheDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]

PAPER_BATCH, PAPER_PROMPT = 4, 512  # of the paper's throughput protocol (Appendix J)

# Bytes per cache element. Scales of integer keys and values are not counted, because engines differ
# in how many they keep.
DTYPE_BYTES: dict[str, int | float] = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5,
}


class KeepsStates(Protocol):
    """The part of a design that a workload needs."""

    @property
    def state_dtype(self) -> ComputeDtype | None: ...


class Workload(Frozen):
    """`context_len` tokens in each of `batch_size` sequences; `prompt_len` of them are prefilled
    (all of them unless given).

    `weight_dtype` None: the format that the design's weights are stored in, or else bf16.
    `state_dtype` None: the design's own, or else that of the products. `max_batched_tokens`: how
    many tokens a serving engine prefills at a time (vLLM's name and default)."""

    batch_size: Annotated[int, Field(ge=1, le=65_536, description="sequences")] = 1
    context_len: Annotated[
        int,
        Field(ge=1, le=2**24, description="tokens per sequence"),
    ] = 8192
    prompt_len: Annotated[
        Annotated[int, Field(ge=1, le=2**24)] | None,
        Field(description="tokens prefilled"),
        Flag(default="the whole context"),
    ] = None
    weight_dtype: Annotated[
        WeightFormat | None,
        Field(description="dtype that weights are stored in"),
        Flag(default="the design's, else bf16"),
    ] = None
    kv_cache_dtype: CacheDtype = Field(default="bf16", description="dtype of keys and values")
    state_dtype: Annotated[
        ComputeDtype | None,
        Field(description="dtype of scan states"),
        Flag(default="the config's, else the products'"),
    ] = None
    max_batched_tokens: Annotated[
        int,
        Field(ge=1, le=2**24, description="tokens prefilled at a time"),
    ] = 8192

    @property
    def product_dtype(self) -> ComputeDtype:
        """The dtype of matrix products and activations. It is bf16 if weights are stored in fewer
        bits."""
        return self.weight_dtype if self.weight_dtype in COMPUTE_BYTES else "bf16"  # type: ignore[return-value]

    @property
    def element_bytes(self) -> int:
        """Bytes per activation element."""
        return COMPUTE_BYTES[self.product_dtype]

    @property
    def scan_dtype(self) -> ComputeDtype:
        """The dtype of scan states."""
        return self.state_dtype or self.product_dtype

    def of(self, spec: KeepsStates) -> "Workload":
        """The workload with the state dtype of the design's config, unless it already has one."""
        if self.state_dtype or not spec.state_dtype:
            return self
        return self.model_copy(update={"state_dtype": spec.state_dtype})

    @property
    def prefill_len(self) -> int:
        return min(self.prompt_len or self.context_len, self.context_len)
