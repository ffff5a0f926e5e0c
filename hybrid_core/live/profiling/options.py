"""The options of a profile. No torch here, because the pages create them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from hybrid_core.design.spec import ArchSpec
from hybrid_core.options import Flag
from hybrid_core.stored import ComputeDtype
from hybrid_core.validation import Frozen, SpecError
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT, Workload

DeviceName = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        description="auto, cpu, cuda or cuda:N",
    ),
]
# The dtypes that the modules support for keys and values.
LiveCacheDtype = Literal["fp32", "bf16", "fp16", "fp8"]
DecodePath = Literal["auto", "eager", "graph", "compiled"]
TotalLength = Annotated[int, Field(ge=2, le=2**22)]
PAPER_TOTALS = (2048, 4096, 8192, 16384, 32768)


def device_among(known: Sequence[str], name: str) -> str:
    """The device that a name refers to among the `known` ones, which begin with the GPUs.

    "auto" is the first device, "cuda" the first GPU. Raises SpecError for a device that is not
    there.
    """
    short_names = {"auto": known[0], "cuda": "cuda:0"}
    meant = short_names.get(name, name)
    if meant not in known:
        raise SpecError(
            f"device: {name!r} - must be among those that torch finds here: {', '.join(known)}"
        )
    return meant


class ProfileOptions(Frozen):
    """What to measure, on which device, in which dtypes, and in how much time.

    The defaults are the paper's protocol (arXiv 2510.04800, Appendix J): batch 4, prompt 512, total
    lengths 2K to 32K. `decode` says how steps run: see `modules.decode.decoder`. Without
    `state_dtype`, states have the design's own dtype, or else that of the weights.
    """

    device: DeviceName = "auto"
    budget_s: Annotated[
        float,
        Field(
            ge=5,
            le=86_400,
            description="seconds to spend; a smaller budget means fewer repeats",
        ),
    ] = 60.0
    dtype: ComputeDtype = Field(default="bf16", description="dtype of the weights")
    kv_cache_dtype: LiveCacheDtype = Field(default="bf16", description="dtype of keys and values")
    state_dtype: Annotated[
        ComputeDtype | None,
        Field(description="dtype of the states of scans"),
        Flag(default="the config's, else the weights'"),
    ] = None
    batch_size: Annotated[
        int,
        Field(ge=1, le=4096, description="sequences"),
        Flag(default="4, the paper's"),
    ] = PAPER_BATCH
    prompt_len: Annotated[
        int,
        Field(ge=1, le=2**20, description="tokens of the prompt"),
        Flag(default="512, the paper's"),
    ] = PAPER_PROMPT
    totals: Annotated[
        tuple[TotalLength, ...],
        Field(strict=False, min_length=1, max_length=100),
    ] = PAPER_TOTALS
    decode: DecodePath = Field(
        default="auto",
        description="how decode steps run; auto is graph on CUDA and eager on a CPU, "
        "compiled needs a C++ compiler and takes a second per layer",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def workload(
        self,
        context_len: int,
        batch_size: int | None = None,
        prompt_len: int | None = None,
    ) -> Workload:
        """The workload at one total length. The prompt is cut to that length if it is longer."""
        asked_prompt = prompt_len or self.prompt_len
        return Workload(
            batch_size=batch_size or self.batch_size,
            context_len=context_len,
            prompt_len=min(asked_prompt, context_len),
            weight_dtype=self.dtype,
            kv_cache_dtype=self.kv_cache_dtype,
            state_dtype=self.state_dtype,
        )

    def states_in(self, spec: ArchSpec) -> ComputeDtype:
        """The dtype that a design's scan states are kept in."""
        any_workload = self.workload(min(self.totals))
        return any_workload.of(spec).scan_dtype
