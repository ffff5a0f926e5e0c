"""What a cost or a profile is asked about: how many sequences, how long, and in which dtypes."""

from typing import Annotated, Literal

from pydantic import Field

from hybrid_core.spec import Frozen

Dtype = Literal["fp32", "bf16", "fp16", "fp8"]
ComputeDtype = Literal["fp32", "bf16", "fp16"]

PAPER_BATCH, PAPER_PROMPT = 4, 512  # of the paper's throughput protocol (Appendix J)

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


class Workload(Frozen):
    """`context_len` tokens in each of `batch_size` sequences; `prompt_len` of them are prefilled (all of them unless given)."""

    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    context_len: Annotated[int, Field(ge=1, le=2**24)] = 8192
    prompt_len: Annotated[int, Field(ge=1, le=2**24)] | None = None
    weight_dtype: ComputeDtype = "bf16"
    kv_cache_dtype: Dtype = "bf16"
    state_dtype: ComputeDtype = "fp32"

    @property
    def prefill_len(self) -> int:
        return min(self.prompt_len or self.context_len, self.context_len)
