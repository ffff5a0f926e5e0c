"""What one layer is: mixers and feed-forwards, each complete in itself. A model is a tuple of such layers (`ArchSpec.stack` in spec.py).

Terms: design in the README, symbols as in Mamba-2 (arXiv 2405.21060) and Llama. A field made with `quiet` is written to YAML only
where it differs from its default, so that a new option changes no saved design.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from hybrid_core.validation import (
    Count,
    Dim,
    Epsilon,
    Factor,
    Frozen,
    Length,
    PowerOfTwo,
    Share,
    Size,
    Theta,
    divides,
    nearest,
    quiet,
    rotates_pairs,
    short,
)


class Mixer(Frozen):
    """What mixes tokens in one layer. `kind` names it in YAML, `letter` in a pattern (placement.py), in figures alone where it has none."""

    kind: ClassVar[str]
    letter: ClassVar[str]


def _read_mixer(value: Any) -> Any:
    """A mixer from a mapping with its `kind`."""
    if not isinstance(value, dict):
        return value
    kinds = mixer_kinds()
    kind = value.get("kind")
    if kind not in kinds:
        raise ValueError(f"kind: {short(kind)} - must be {nearest(kind, kinds)}")
    return kinds[kind].make(**{str(key): item for key, item in value.items() if key != "kind"})


def _write_mixer(mixer: Mixer) -> dict[str, Any]:
    return {"kind": mixer.kind} | mixer.model_dump(exclude_none=True)


def mixer_kinds() -> dict[str, type[Mixer]]:
    """Every kind of mixer by its name in YAML."""
    return {cls.kind: cls for cls in _descendants(Mixer) if "kind" in vars(cls)}


def _descendants(cls: type[Any]) -> Iterator[type[Any]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


MIXER = (BeforeValidator(_read_mixer), PlainSerializer(_write_mixer))  # what makes a field of a mixer's type readable with `kind`


# ---------------------------------------------------------------- attention


class RopeScaling(Frozen):
    """Llama-3 frequency scaling: long wavelengths are slowed by `factor`, short ones kept, with a ramp between."""

    factor: Annotated[Factor, Field(ge=1)] = 32.0
    low_freq_factor: Factor = 1.0
    high_freq_factor: Factor = 4.0
    original_context_len: Annotated[Length, Field(ge=1)] = 8192

    @model_validator(mode="after")
    def _rules(self) -> "RopeScaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"high_freq_factor: {self.high_freq_factor} - must be above low_freq_factor ({self.low_freq_factor})")
        return self


class AttentionFields(Frozen):
    """What an attention layer and the section `attention` have in common.

    `qk_norm`: RMSNorm of each query and key head. `output_gate`: a sigmoid gate of the input on every channel of the output.
    `sink_logits`: a learnt logit per head in the softmax. `reuse_kv`: keys and values are those of the last layer before that made some.
    `d_input`: width that the projections read, where it is not d_model. `softmax_scale`: instead of head_dim^-0.5.
    """

    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim
    position: Literal["rope", "nope"] = "rope"
    rope_theta: Theta = 500_000.0
    rope_fraction: Share = 1.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = quiet(False)
    out_bias: bool = quiet(False)
    qk_norm: bool = quiet(False)
    output_gate: bool = quiet(False)
    sink_logits: bool = quiet(False)
    reuse_kv: bool = quiet(False)
    d_input: Dim | None = quiet(None)
    softmax_scale: Factor | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads)
        if self.position == "rope":
            rotates_pairs("head_dim", self.head_dim, self.rope_fraction)
        return self


class AttentionMixer(AttentionFields, Mixer):
    """Grouped-query attention. Queries and keys are `head_dim` wide, values `v_head_dim`; RoPE turns the first `rope_dim` channels."""

    kind: ClassVar[str] = "attention"
    letter: ClassVar[str] = "A"
    v_head_dim: Dim

    @model_validator(mode="before")
    @classmethod
    def _square(cls, data: Any) -> Any:
        return {"v_head_dim": data["head_dim"]} | data if isinstance(data, dict) and "head_dim" in data else data

    @property
    def rope_dim(self) -> int:
        """Channels of a head that RoPE turns."""
        return round(self.head_dim * self.rope_fraction) if self.position == "rope" else 0

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """What a table of rotations depends on."""
        return (self.rope_dim, self.rope_theta, self.rope_scaling) if self.position == "rope" else None


class SwaMixer(AttentionMixer):
    """Attention in which a query sees the last `window` positions (itself included) and the first `sink`."""

    kind: ClassVar[str] = "swa"
    letter: ClassVar[str] = "S"
    window: Dim
    sink: Count = 0


DiffScalar = Literal["diff_t", "none"]
DiffFusion = Literal["diff", "add"]
Norm = Literal["group", "none"]


class DiffAttentionMixer(AttentionMixer):
    """Differential attention (arXiv 2410.05258): head i and head i + n_heads/2 are a pair, each with a softmax map of its own, and read
    the same value of two heads' width (2 `v_head_dim`). Projections and cache are those of plain attention.

    `shared_norm`: one weight for all pairs, as in Phi-4-mini-flash, which also windows some layers.
    """

    kind: ClassVar[str] = "diff_attention"
    letter: ClassVar[str] = "D"
    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion
    shared_norm: bool = quiet(False)
    window: Dim | None = quiet(None)

    @property
    def pair_width(self) -> int:
        """Width of a pair's value."""
        return 2 * self.v_head_dim


class LatentAttentionMixer(Mixer):
    """Multi-head latent attention (DeepSeek, Kimi): keys and values are expanded from a latent of `kv_rank`, which is what the cache
    holds, beside `rope_head_dim` channels of a key that all heads share. `q_rank`: queries come from a latent too."""

    kind: ClassVar[str] = "mla"
    letter: ClassVar[str] = "A"
    n_heads: Dim
    nope_head_dim: Dim
    rope_head_dim: Dim
    v_head_dim: Dim
    kv_rank: Dim
    q_rank: Dim | None = None
    bias: bool = quiet(False)


# ---------------------------------------------------------------- state-space mixers


class Mamba2Fields(Frozen):
    """What a Mamba-2 layer and the section `ssm` have in common.

    `gated_norm`: the RMSNorm after the gate. `norm_first`: it stands before the gate. `in_bias`, `out_bias`, `conv_bias`: of the
    projections and the convolution. `dt_min`: dt is no smaller (the low end of a config's `time_step_limit`).
    """

    d_ssm: Dim
    head_dim: Dim = 128
    d_state: Dim = 128
    d_conv: Dim = 4
    n_groups: Dim = 1
    chunk_size: PowerOfTwo = 128
    gated_norm: bool = quiet(True)
    norm_first: bool = quiet(False)
    conv_bias: bool = quiet(True)
    in_bias: bool = quiet(False)
    out_bias: bool = quiet(False)
    dt_min: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("d_ssm", self.d_ssm, "head_dim", self.head_dim)
        divides("d_ssm / head_dim", self.d_ssm // self.head_dim, "n_groups", self.n_groups)
        return self


class Mamba2Mixer(Mamba2Fields, Mixer):
    """Mamba-2: scalar decay per head, inner width `d_ssm`, state `d_state` per channel. `chunk_size` is how the scan is computed."""

    kind: ClassVar[str] = "mamba2"
    letter: ClassVar[str] = "M"

    @property
    def n_heads(self) -> int:
        return self.d_ssm // self.head_dim

    @property
    def d_xbc(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_ssm + 2 * self.n_groups * self.d_state


class DiffMamba2Mixer(Mamba2Mixer):
    """Differential Mamba-2: two branches of half the inner width, each with its own z, x, B, C and dt. Heads share B and C by group,
    so two branches are the two halves of the groups of one Mamba-2; `n_groups` counts those of both."""

    kind: ClassVar[str] = "diff_mamba2"
    letter: ClassVar[str] = "N"
    norm: Norm
    scalar: DiffScalar
    fusion: DiffFusion


class Mamba1Fields(Frozen):
    """What a Mamba-1 layer and the section `ssm` have in common. `dt_rank` is d_model / 16 in the published models.

    `dt_bc_norm`: RMSNorm of dt (at its rank), B and C, as in Jamba; `dt_bc_weight` False: without weights, and with an epsilon of its
    own, as in Falcon-Mamba.
    `n_heads`: channels in that many heads, each with its own dt, B and C, as in Zamba.
    """

    d_ssm: Dim
    d_state: Dim = 16
    d_conv: Dim = 4
    dt_rank: Dim
    dt_bc_norm: bool = False
    dt_bc_weight: bool = quiet(True)
    dt_bc_eps: Epsilon | None = quiet(None)
    n_heads: Dim = quiet(1)
    conv_bias: bool = quiet(True)
    proj_bias: bool = quiet(False)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("d_ssm", self.d_ssm, "n_heads", self.n_heads)
        return self


class Mamba1Mixer(Mamba1Fields, Mixer):
    """Mamba-1 (arXiv 2312.00752): a decay for every channel and state, dt through a bottleneck of `dt_rank`."""

    kind: ClassVar[str] = "mamba1"
    letter: ClassVar[str] = "M"


# ---------------------------------------------------------------- two mixers in one layer

Scalar = Literal["none", "scale", "gate", "diff_t"]
Fusion = Literal["add", "diff", "concat"]
Value = Literal["separate", "shared"]
Out = Literal["separate", "joint"]


def fusible(fusion: Fusion, value: Value, out: Out, d_ssm: int, width: int) -> None:
    """Raise unless the axes go together, where the attention branch is `width` wide."""
    if fusion == "concat" and out == "separate":
        raise ValueError("fusion: 'concat' - needs out 'joint': two outputs of width d_model cannot be concatenated into one")
    joint_sum = out == "joint" and fusion != "concat"
    if (value == "shared" or joint_sum) and d_ssm != width:
        why = "value 'shared'" if value == "shared" else f"fusion {fusion!r} before a joint projection"
        raise ValueError(f"d_ssm: {d_ssm} - {why} needs d_ssm equal to n_heads * v_head_dim ({width})")


class IntraMixer(Mixer):
    """Attention heads and SSM heads side by side in one block, fused along five axes (paper, Appendix D).

    `ssm_norm`: the SSM branch keeps Mamba-2's gated norm (Falcon-H1). `whole_norm`: the norm of a branch spans it whole, not
    each head of it (Hymba, whose SSM is a Mamba-1).
    """

    kind: ClassVar[str] = "intra"
    letter: ClassVar[str] = "H"
    attention: Annotated[AttentionMixer, *MIXER]
    ssm: Annotated[Mamba2Mixer | Mamba1Mixer, *MIXER]
    norm: Norm
    scalar: Scalar
    fusion: Fusion
    value: Value
    out: Out
    ssm_norm: bool = quiet(False)
    whole_norm: bool = quiet(False)

    @model_validator(mode="after")
    def _rules(self) -> "IntraMixer":
        fusible(self.fusion, self.value, self.out, self.ssm.d_ssm, self.d_attention)
        if isinstance(self.ssm, Mamba1Mixer):
            if self.value == "shared":
                raise ValueError("value: 'shared' - needs a Mamba-2 branch: Mamba-1 makes dt, B and C from its own values")
            if self.ssm_norm:
                raise ValueError("ssm_norm: True - needs a Mamba-2 branch: Mamba-1 has no gated norm")
        return self

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """The attention branch's."""
        return self.attention.rope

    @property
    def d_attention(self) -> int:
        """Width of the attention branch before its projection."""
        return self.attention.n_heads * self.attention.v_head_dim


class SideBySideMixer(Mixer):
    """Complete mixers that read the same input; their outputs are added."""

    kind: ClassVar[str] = "side_by_side"
    letter: ClassVar[str] = "H"
    branches: tuple[Annotated[Mixer, *MIXER], ...] = Field(strict=False)


# ---------------------------------------------------------------- recurrences with another state


class GatedDeltaNetMixer(Mixer):
    """Gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next: a delta-rule state of key by value channels for each value head."""

    kind: ClassVar[str] = "gated_deltanet"
    letter: ClassVar[str] = "R"
    n_k_heads: Dim
    n_v_heads: Dim
    k_head_dim: Dim
    v_head_dim: Dim
    d_conv: Dim = 4

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("n_v_heads", self.n_v_heads, "n_k_heads", self.n_k_heads)
        return self


class KimiDeltaMixer(Mixer):
    """Kimi Delta Attention: the delta rule with a decay per channel; forget and output gates through a bottleneck of `head_dim`."""

    kind: ClassVar[str] = "kda"
    letter: ClassVar[str] = "R"
    n_heads: Dim
    head_dim: Dim
    d_conv: Dim = 4


class RgLruMixer(Mixer):
    """RG-LRU (arXiv 2402.19427): a gated linear recurrence of `width` channels, gates block-diagonal over `n_blocks`."""

    kind: ClassVar[str] = "rg_lru"
    letter: ClassVar[str] = "R"
    width: Dim
    n_blocks: Dim
    d_conv: Dim = 4

    @model_validator(mode="after")
    def _rules(self) -> Self:
        divides("width", self.width, "n_blocks", self.n_blocks)
        return self


class ShortConvMixer(Mixer):
    """LFM2's gated short convolution: its window of inputs is all the state that it has."""

    kind: ClassVar[str] = "short_conv"
    letter: ClassVar[str] = "R"
    d_conv: Dim = 3
    bias: bool = quiet(False)


class GatedMemoryMixer(Mixer):
    """Gated memory unit (arXiv 2507.06607): gates what an earlier scan put out, `d_memory` wide; it has no cache of its own."""

    kind: ClassVar[str] = "gated_memory"
    letter: ClassVar[str] = "R"
    d_memory: Dim
    bias: bool = quiet(False)


class DeclaredMixer(Mixer):
    """A mixer known by its sizes alone, for what has no formula here yet.

    Parameters: `matrix_params` in products with every token, `other_params` in none, and a depthwise convolution of `conv_channels`
    over `d_conv` inputs. Cache in elements of one sequence: `state`, the convolution's inputs, `kv_per_token`. FLOPs beside the
    products: `flops_per_token`, and `flops_per_pair` of positions.
    """

    kind: ClassVar[str] = "declared"
    letter: ClassVar[str] = "R"
    name: Annotated[str, Field(min_length=1, max_length=60)]
    matrix_params: Size = 0
    other_params: Size = 0
    state: Size = 0
    conv_channels: Count = 0
    d_conv: Dim = 1
    kv_per_token: Count = 0
    flops_per_token: Size = 0
    flops_per_pair: Size = 0


class NoMixer(Mixer):
    """A layer that is a feed-forward alone."""

    kind: ClassVar[str] = "none"
    letter: ClassVar[str] = "-"


# ---------------------------------------------------------------- feed-forward

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]


class SwiGLU(Frozen):
    """Gated feed-forward: down(activation(gate(x)) * up(x))."""

    kind: Literal["swiglu"] = "swiglu"
    d_ff: Dim
    activation: Activation = quiet("silu")
    bias: bool = quiet(False)


class Mlp(Frozen):
    """Feed-forward without a gate: down(activation(up(x)))."""

    kind: Literal["mlp"] = "mlp"
    d_ff: Dim
    activation: Activation = "relu2"
    bias: bool = quiet(False)


class MoE(Frozen):
    """Mixture of experts: `n_shared` always on, `top_k` of `n_routed` chosen by a router (sigmoid in the paper, Appendix L).

    `d_shared`: width of the shared experts together, unless n_shared * d_expert. `shared_gate`: a sigmoid gate on their output.
    `score`: softmax over all, or over the `top_k` chosen (normalised either way by `norm_top_k`). `scale`: of the routed sum.
    `score_bias`: the balancing bias is a parameter. `d_latent`: the routed experts work behind a projection to this width.
    """

    kind: Literal["moe"] = "moe"
    n_routed: Dim = 8
    top_k: Dim = 1
    n_shared: Count = 1
    d_expert: Dim
    d_shared: Dim | None = quiet(None)
    shared_gate: bool = quiet(False)
    gated: bool = quiet(True)
    activation: Activation | Literal["clamped_swiglu"] = quiet("silu")
    bias: bool = quiet(False)
    score: Literal["sigmoid", "softmax"] = quiet("sigmoid")
    norm_top_k: bool = quiet(False)
    scale: Factor = quiet(1.0)
    score_bias: bool = quiet(False)
    d_latent: Dim | None = quiet(None)

    @model_validator(mode="after")
    def _rules(self) -> "MoE":
        if self.top_k > self.n_routed:
            raise ValueError(f"top_k: {self.top_k} - must not exceed n_routed ({self.n_routed})")
        return self

    @property
    def shared_width(self) -> int:
        """Width of the shared experts together; 0 where there are none."""
        return self.d_shared or self.n_shared * self.d_expert


AnyFfn = SwiGLU | Mlp | MoE
Ffn = Annotated[AnyFfn, Field(discriminator="kind")]


class SharedBlockMixer(Mixer):
    """Zamba's layer: a Transformer block whose weights layers share, then an SSM of the layer's own that reads its input and the
    block's output, projected. The block reads the layer's input beside the embeddings: twice d_model (`attention.d_input`).

    Layers with the same `block` share its weights. `adapter_rank`: low-rank adapters of this layer's own on the block's
    feed-forward, and on its queries, keys and values too where `attention_adapters`.
    """

    kind: ClassVar[str] = "shared_block"
    letter: ClassVar[str] = "Z"
    block: Count
    attention: Annotated[AttentionMixer, *MIXER]
    ffn: Ffn
    ssm: Annotated[Mamba2Mixer | Mamba1Mixer, *MIXER]
    adapter_rank: Count = quiet(0)
    attention_adapters: bool = quiet(False)

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """The shared block's."""
        return self.attention.rope


class Layer(NamedTuple):
    """One layer as built: its letter (see placement.py), its mixer (or NoMixer), its feed-forward or none."""

    letter: str
    mixer: Mixer
    ffn: AnyFfn | None


def key_value_heads(layer: Layer) -> AttentionMixer | None:
    """The heads of a layer whose keys and values later layers may reuse, or that reuses an earlier one's; None where it has none."""
    mixer = layer.mixer.attention if isinstance(layer.mixer, IntraMixer) else layer.mixer
    return mixer if isinstance(mixer, AttentionMixer) else None


def check_reuse(stack: tuple[Layer, ...]) -> None:
    """Raise unless every layer that reuses keys and values has an earlier one that made them, with the same heads and window."""
    made: tuple[Any, ...] | None = None
    for number, layer in enumerate(stack, start=1):
        heads = key_value_heads(layer)
        if heads is None:
            continue
        own = (heads.n_kv_heads, heads.head_dim, heads.v_head_dim, getattr(heads, "window", None), getattr(heads, "sink", 0))
        if not heads.reuse_kv:
            made = own
        elif made != own:
            last = "no layer before it made any" if made is None else "the last ones made before it have other heads or another window"
            raise ValueError(f"reuse_kv: True - layer {number} needs keys and values of an earlier layer like itself, and {last}")
