"""The options of the three kinds of retrieval run. No torch: the pages build them."""

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

# Appendix K of the paper: 11 needle depths, and haystacks of 960, 1984, ..., 16320 tokens.
DEPTHS = tuple(tenths / 10 for tenths in range(11))
PAPER_LENGTHS = tuple(range(960, 16_321, 1024))
NOTE = "A probe of the architecture at small scale, not a forecast of a trained model."
# The context lengths of a map, as multiples of the trained length.
CONTEXTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FRAME_TOKENS = 64  # an upper bound on the tokens of a prompt apart from its haystack

FileName = Annotated[str, Field(min_length=1)]


class Scale(Frozen):
    """How large a proxy is, and how it is trained and tested, on one type of device.

    `tokens_per_s` converts the budget into a number of training tokens. It is a constant, not
    measured, so that the training schedule depends only on the options.
    """

    d_model: int
    trained_len: int
    trials: int
    contexts_per_step: int
    least_step_tokens: int
    tokens_per_s: int

    def step_tokens(self, length: int) -> int:
        """Tokens of a training step on contexts of `length` tokens.

        Steps on short contexts are small, because learning there takes many steps.
        """
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
    """The options of a needle test of a proxy.

    Width, trained length and trials have defaults that depend on the device (see `scale`).
    """

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
        """The scale of the run on a device of type "cpu" or "cuda"."""
        usual = CPU
        if device_type == "cuda":
            usual = GPU
        asked = self.model_dump(include={"d_model", "trained_len", "trials"}, exclude_none=True)
        return usual.model_copy(update=asked)


def least_text_bytes(trained_len: int) -> int:
    """How long a text for the loss by position must be, in bytes.

    The last tenth of the text is read in windows of twice the trained length.
    """
    return 20 * trained_len


class ProbeOptions(NiahOptions):
    """The options of the three other probes: the same, plus a text."""

    text_path: Annotated[
        FileName | None,
        Field(description="a text for the loss by position; without one that probe is left out"),
        Flag(metavar="FILE"),
    ] = None


class CheckpointOptions(Frozen):
    """The options of the paper's protocol (Appendix K) on a folder in Hugging Face format."""

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
        """The design that the folder's config.json describes.

        Raises SpecError if that file cannot be read, or if `require_files` rejects the folder.
        """
        folder = Path(self.path)
        try:
            config = read_config(folder / "config.json")
            require_files(folder, "checkpoint's text file")
        except SpecError as error:
            raise SpecError(f"checkpoint: {error}") from None
        return spec_from_config(config, folder.resolve().name)

    def workload(self, length: int) -> Workload:
        """The workload of one batch of prompts with haystacks of `length` tokens."""
        return Workload(
            batch_size=self.batch_size,
            context_len=length + FRAME_TOKENS,
            weight_dtype=self.dtype,
            kv_cache_dtype=self.dtype,
        )
