"""How weights are stored: the formats that quantised checkpoints use, and which parts of a model
are kept in which.

Parameters stay what they are, and so do products: a format says how many bytes a matrix takes in
memory, its scales included."""

from collections.abc import Iterable
from math import ceil
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hybrid_core.validation import Dim, Frozen, Length, exact_int, nearest, quiet, short

ComputeDtype = Literal["fp32", "bf16", "fp16"]
Format = Literal[
    "fp8", "int8", "int4", "mxfp4", "nvfp4", "mxfp8", "nf4", "int2", "int3", "int5", "int6"
]
WeightFormat = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "mxfp4", "nvfp4"]

COMPUTE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class Layout(NamedTuple):
    """Bits of an element, and of the scale (with its zero point, if any) that `rows` x `columns`
    elements share; None: all of the matrix. `tensor_bits`: what a whole matrix has on top."""

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


# The usual layout of each format. MXFP4 and MXFP8: 8-bit exponents of 32 elements (OCP Microscaling
# 1.0). NVFP4: 8-bit scales of 16 elements and one in float32 (NVIDIA ModelOpt). FP8: one float32
# scale a matrix. INT8: a 16-bit scale an output channel. Other integers: a 16-bit scale of 128
# elements, as compressed-tensors writes them. NF4: a float32 scale of 64 elements (bitsandbytes).
USUAL: dict[str, Layout] = {
    "mxfp4": Layout(4, 1, 32, 8),
    "mxfp8": Layout(8, 1, 32, 8),
    "nvfp4": Layout(4, 1, 16, 8, 32),
    "fp8": Layout(8, None, None, 32),
    "int8": Layout(8, 1, None, 16),
    "nf4": Layout(4, 1, 64, 32),
    **{f"int{bits}": Layout(bits, 1, 128, 16) for bits in (2, 3, 4, 5, 6)},
}

# The parts that a rule may name, and their matrices. `linear` is every matrix of the layers that is
# a linear layer in the published code.
_ATTENTION, _MAMBA1 = "q k v output_gate out", "in_proj x_proj dt_proj out"
_SHARED_BLOCK = (
    "block q,block k,block v,block out,block ffn.gate,block ffn.up,block ffn.down,adapters,linear"
)
MATRICES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "embedding": (),
    "head": (),
    "router": (),
    "latent": (),
    **dict.fromkeys(("ffn", "experts", "shared"), ("gate", "up", "down")),
    **dict.fromkeys(("attention", "swa", "diff_attention"), tuple(_ATTENTION.split())),
    **dict.fromkeys(("mamba2", "diff_mamba2"), ("in_proj", "out")),
    "mamba1": tuple(_MAMBA1.split()),
    "intra": tuple(dict.fromkeys(f"{_ATTENTION} {_MAMBA1} gate".split())),
    "mla": ("q", "q_a", "q_b", "kv_a", "kv_b", "out"),
    "gated_deltanet": ("in_proj", "decay, step", "out"),
    "kda": ("in_proj", "gates", "step", "out"),
    "rg_lru": ("in_proj", "gates", "out"),
    "short_conv": ("in_proj", "out"),
    "gated_memory": ("in_proj", "out"),
    "declared": ("matrices",),
    "shared_block": (*_SHARED_BLOCK.split(","), *(f"ssm {part}" for part in _MAMBA1.split())),
    "side_by_side": tuple(dict.fromkeys(f"{_ATTENTION} {_MAMBA1} matrices".split())),
}
# Matrices of layers that are no linear layers, so that `linear` does not mean them: routers, and
# gates kept block by block.
NOT_LINEAR = ("router", "rg_lru.gates")
Bits = Annotated[int, BeforeValidator(exact_int), Field(ge=0, le=64)]


def _known_part(name: str) -> str:
    kind, dot, matrix = name.partition(".")
    if kind not in MATRICES:
        raise ValueError(f"must be {nearest(kind, MATRICES)}")
    if dot and matrix not in MATRICES[kind]:
        raise ValueError(f"must be {nearest(matrix, MATRICES[kind])} behind the dot")
    return name


class StoredWeights(Frozen):
    """Matrices that are stored in `format`: those of the `parts`, in every layer or in `layers`
    (from 1).

    A part is a key of MATRICES (`attention`, `experts`) or one of its matrices (`attention.q`). The
    rest says where the format's layout is not the usual one: `columns` elements of a row and as
    many `rows` share a scale of `scale_bits`, zero point included; 0 means all of them."""

    format: Format
    parts: Annotated[
        tuple[Annotated[str, AfterValidator(_known_part)], ...], Field(strict=False, min_length=1)
    ]
    layers: tuple[Dim, ...] | None = Field(
        default=None, strict=False, exclude_if=lambda value: value is None
    )
    rows: Length | None = quiet(None)
    columns: Length | None = quiet(None)
    scale_bits: Bits | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "StoredWeights":
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers: {short(list(self.layers))} - a layer is named twice")
        return self

    @property
    def layout(self) -> Layout:
        """The format's usual layout with what this rule changes."""
        changed: dict[str, Any] = {}
        for key in ("rows", "columns"):
            value = getattr(self, key)
            if value is not None:
                changed[key] = value or None
        if self.scale_bits is not None:
            changed["scale_bits"] = self.scale_bits
        return USUAL[self.format]._replace(**changed)

    def holds(self, part: str, layer: int | None) -> bool:
        """Whether the rule speaks of `part` (`attention.q`, `router`) of a layer (from 1; None
        outside the layers)."""
        if self.layers is not None and layer not in self.layers:
            return False
        kind = part.partition(".")[0]
        if "linear" in self.parts and layer is not None and part not in NOT_LINEAR:
            return True
        return part in self.parts or kind in self.parts


def up_to(rules: Iterable[StoredWeights], n_layers: int) -> list[StoredWeights]:
    """The rules of a stack that has only so many layers left."""
    found = []
    for rule in rules:
        layers = (
            None
            if rule.layers is None
            else tuple(layer for layer in rule.layers if layer <= n_layers)
        )
        if layers is None or layers:
            found.append(rule.model_copy(update={"layers": layers}))
    return found
