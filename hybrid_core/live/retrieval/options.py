"""The options of retrieval runs. No torch here: pages make them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import require_files
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.live.profiling.options import DeviceName
from hybrid_core.options import Flag
from hybrid_core.stored import ComputeDtype
from hybrid_core.validation import Frozen, SpecError
from hybrid_core.workload import Workload

DEPTHS = tuple(i / 10 for i in range(11))  # the paper's eleven (Appendix K)
PAPER_LENGTHS = tuple(range(960, 16_321, 1024))  # of Appendix K, in tokens
NOTE = "A probe of the architecture at small scale, not a forecast of a trained model."
CONTEXTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the trained length

FileName = Annotated[str, Field(min_length=1)]


class Scale(Frozen):
    """Width and length of a proxy on one sort of device. `tokens_per_s` turns a budget into the
    plan of training tokens: a constant, not a measurement, so that the schedule depends on nothing
    but the options."""

    d_model: int
    trained_len: int
    trials: int
    contexts_per_step: int
    least_step_tokens: int
    tokens_per_s: int

    def step_tokens(self, length: int) -> int:
        """Of a training step on contexts of `length` tokens: small while they are short, since what
        is learnt there takes many steps."""
        return max(self.least_step_tokens, self.contexts_per_step * length)


CPU = Scale(
    d_model=64,
    trained_len=512,
    trials=50,
    contexts_per_step=4,
    least_step_tokens=512,
    tokens_per_s=4_500,
)
GPU = Scale(
    d_model=256,
    trained_len=2048,
    trials=100,
    contexts_per_step=16,
    least_step_tokens=8192,
    tokens_per_s=200_000,
)


class NiahOptions(Frozen):
    """A device, seconds for training and evaluation together, a seed; width, trained length and
    trials follow the device unless given."""

    device: DeviceName = "auto"
    budget_s: Annotated[
        float,
        Field(
            ge=1,
            le=86_400,
            description="seconds for training and evaluation; 300 let most designs learn "
            "on two CPU cores",
        ),
    ] = 300.0
    seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of weights and data")] = 0
    d_model: Annotated[
        Annotated[int, Field(ge=32, le=4096, multiple_of=32)] | None,
        Field(description="width of the proxy"),
        Flag(default="64 on a CPU, 256 on a GPU"),
    ] = None
    trained_len: Annotated[
        Annotated[int, Field(ge=128, le=2**20, multiple_of=32)] | None,
        Field(description="tokens of context to train at"),
        Flag(default="512 on a CPU, 2048 on a GPU"),
    ] = None
    trials: Annotated[
        Annotated[int, Field(ge=1, le=10_000)] | None,
        Field(description="trials per cell"),
        Flag(default="50 on a CPU, 100 on a GPU or a checkpoint"),
    ] = None

    def scale(self, device_type: str) -> Scale:
        """The scale of the run on "cpu" or "cuda"."""
        usual = GPU if device_type == "cuda" else CPU
        asked = self.model_dump(include={"d_model", "trained_len", "trials"}, exclude_none=True)
        return usual.model_copy(update=asked)


def least_text_bytes(trained_len: int) -> int:
    """Of a text for the loss by position: nine tenths to train on, the rest to read at twice the
    trained length."""
    return 20 * trained_len


class ProbeOptions(NiahOptions):
    """The same, and a text for the loss by position."""

    text_path: Annotated[
        FileName | None,
        Field(description="a text for the loss by position; without one that probe is left out"),
        Flag(metavar="FILE"),
    ] = None


class CheckpointOptions(Frozen):
    """The paper's protocol (Appendix K) on a folder in Hugging Face format."""

    path: Annotated[
        FileName,
        Field(description="a folder in Hugging Face format, tokenizer included"),
        Flag(name="checkpoint", metavar="DIR"),
    ]
    device: DeviceName = "auto"
    task: Literal["niah_single", "niah_multikey"] = Field(
        default="niah_single",
        description="which needles to hide",
    )
    haystack_path: Annotated[
        FileName | None,
        Field(description="a text to hide needles in"),
        Flag(metavar="FILE", default="built-in noise"),
    ] = None
    lengths: Annotated[
        tuple[Annotated[int, Field(ge=64, le=2**22)], ...],
        Field(
            strict=False,
            min_length=1,
            max_length=999,
            description="haystack tokens",
        ),
        Flag(metavar="N,N", default="960,1984,...,16320, the paper's"),
    ] = PAPER_LENGTHS
    depths: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...],
        Field(strict=False, min_length=1, max_length=999),
    ] = DEPTHS
    trials: Annotated[
        int,
        Field(ge=1, le=10_000, description="trials per cell"),
        Flag(default="100, the paper's"),
    ] = 100
    batch_size: Annotated[int, Field(ge=1, le=4096, description="prompts at a time")] = 8
    dtype: ComputeDtype = Field(default="bf16", description="dtype of the weights")
    seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of the needles")] = 0

    def design(self) -> ArchSpec:
        """What the folder's config.json describes. Raises SpecError with one line, also for a
        folder that no library should open."""
        folder = Path(self.path)
        try:
            config = read_config(folder / "config.json")
            require_files(folder, "checkpoint's text file")
        except SpecError as error:
            raise SpecError(f"checkpoint: {error}") from None
        return spec_from_config(config, folder.resolve().name)

    def workload(self, length: int) -> Workload:
        """What one batch of haystacks of `length` tokens needs memory for: the prompt's frame is
        under 64 tokens."""
        total = length + 64
        return Workload(
            batch_size=self.batch_size,
            context_len=total,
            weight_dtype=self.dtype,
            kv_cache_dtype=self.dtype,
        )
