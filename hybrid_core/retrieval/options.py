"""What a retrieval run is asked to do. No torch: pages make these."""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from hybrid_core.spec import Frozen, SpecError, first_line

DEPTHS = tuple(i / 10 for i in range(11))  # the paper's eleven (Appendix K)
CONTEXTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # of the trained length


class Scale(Frozen):
    """Width and length of a proxy on one sort of device. `tokens_per_s` turns a budget into the plan of training tokens: a constant,
    not a measurement, so that the schedule depends on nothing but the options."""

    d_model: int
    trained_len: int
    trials: int
    tokens_per_step: int
    tokens_per_s: int


CPU = Scale(d_model=64, trained_len=256, trials=50, tokens_per_step=4096, tokens_per_s=9_000)
GPU = Scale(d_model=256, trained_len=2048, trials=100, tokens_per_step=32_768, tokens_per_s=200_000)


class NiahOptions(Frozen):
    """A device, seconds for training and evaluation together, a seed; width, trained length and trials follow the device unless given."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    budget_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    d_model: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] | None = None
    trained_len: Annotated[int, Field(ge=128, le=2**20, multiple_of=32)] | None = None
    trials: Annotated[int, Field(ge=1, le=10_000)] | None = None

    def scale(self, device_type: str) -> Scale:
        """The scale of the run on "cpu" or "cuda"."""
        given = {key: value for key in ("d_model", "trained_len", "trials") if (value := getattr(self, key)) is not None}
        return (GPU if device_type == "cuda" else CPU).model_copy(update=given)

    @classmethod
    def make(cls, **fields: Any) -> "NiahOptions":
        """Validate; raises SpecError with one line."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise SpecError(first_line(error)) from None
