"""Storage formats of weights, and the bytes of a matrix in each. design/quantization.py decides
which parts of a model are stored in which format."""

from math import ceil
from typing import Literal, NamedTuple

ComputeDtype = Literal["fp32", "bf16", "fp16"]
Format = Literal[
    "fp8", "int8", "int4", "mxfp4", "nvfp4", "mxfp8", "nf4", "int2", "int3", "int5", "int6"
]
WeightFormat = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4"]

COMPUTE_BYTES: dict[str, int] = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
}


class Layout(NamedTuple):
    """Bits of an element, and of the scale (with its zero point, if any) that `rows` x `columns`
    elements share. None means the whole matrix. `tensor_bits`: extra bits per matrix."""

    bits: int
    rows: int | None
    columns: int | None
    scale_bits: int
    tensor_bits: int = 0

    def matrix_bytes(self, d_in: int, d_out: int) -> float:
        """Bytes of one matrix of `d_out` rows and `d_in` columns."""
        across = ceil(d_out / (self.rows or d_out))
        along = ceil(d_in / (self.columns or d_in))
        return (d_in * d_out * self.bits + across * along * self.scale_bits + self.tensor_bits) / 8


# The usual layout of each format. MXFP4 and MXFP8: an 8-bit exponent per 32 elements (OCP
# Microscaling 1.0). NVFP4: an 8-bit scale per 16 elements and one in float32 per matrix (NVIDIA
# ModelOpt). FP8: one float32 scale per matrix. INT8: a 16-bit scale per output channel. Other
# integers: a 16-bit scale per 128 elements, as compressed-tensors writes them. NF4: a float32 scale
# per 64 elements (bitsandbytes).
USUAL: dict[str, Layout] = {
    "mxfp4": Layout(4, 1, 32, 8),
    "mxfp8": Layout(8, 1, 32, 8),
    "nvfp4": Layout(4, 1, 16, 8, 32),
    "fp8": Layout(8, None, None, 32),
    "int8": Layout(8, 1, None, 16),
    "nf4": Layout(4, 1, 64, 32),
    **{f"int{bits}": Layout(bits, 1, 128, 16) for bits in (2, 3, 4, 5, 6)},
}
