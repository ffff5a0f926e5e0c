"""Designs out: YAML, Hugging Face, Megatron, FLA, torchtitan, Python. What a format cannot say is
an error that names it.

Hugging Face: a family is a table from its fields to ours, and a few derived ones. A design goes to
the first family that reads it back as the same model (huggingface.py), so nothing is ever
flattened: what comes back different is what the format cannot say."""

import json
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from hybrid_core.design.built import require_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop import frameworks, megatron
from hybrid_core.interop.huggingface import spec_from_config
from hybrid_core.interop.kernel_shapes import FORMATS as KERNEL_FORMATS
from hybrid_core.interop.kernel_shapes import kernel_refusals
from hybrid_core.interop.megatron import first_of
from hybrid_core.interop.snippet import snippet
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.rg_lru import RgLruMixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.short_conv import ShortConvMixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError, short

Files = dict[str, str]


class ExportError(SpecError):
    """What a format cannot say: one line."""


# ---------------------------------------------------------------- Hugging Face

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu2": "relu2"}
ACT = "activation"
HEADS = {"num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads"}
BIASED = HEADS | {"attention_bias": "qkv_bias"}
GATED = {"intermediate_size": "d_ff", "hidden_act": ACT}
MAMBA1 = {"mamba_d_state": "d_state", "mamba_d_conv": "d_conv", "mamba_dt_rank": "dt_rank"}
MAMBA1 |= {"mamba_proj_bias": "proj_bias", "mamba_conv_bias": "conv_bias"}
MAMBA2 = {
    "mamba_d_state": "d_state",
    "mamba_d_conv": "d_conv",
    "mamba_n_groups": "n_groups",
    "mamba_chunk_size": "chunk_size",
}
MAMBA2 |= {
    "mamba_n_heads": "n_heads",
    "mamba_d_head": "head_dim",
    "mamba_conv_bias": "conv_bias",
    "mamba_proj_bias": "in_bias",
}
PLAIN_MAMBA1 = {
    "intermediate_size": "d_ssm",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "time_step_rank": "dt_rank",
}
PLAIN_MAMBA1 |= {"use_bias": "proj_bias", "use_conv_bias": "conv_bias"}


class _Family(NamedTuple):
    """`fields`: by the type of a part of the design, their field -> the part's attribute. `more`:
    derived fields, from the design."""

    architecture: str
    eps: str
    fields: dict[type[Any], dict[str, str]]
    more: tuple[Callable[[ArchSpec], dict[str, Any]], ...] = ()
    n_layers: bool = True


def _names(field: str, **names: str) -> Callable[[ArchSpec], dict[str, Any]]:
    """A list of one name a layer, by its letter."""
    return lambda spec: {field: [names.get(layer.letter, layer.letter) for layer in spec.stack]}


def _rope(spec: ArchSpec) -> dict[str, Any]:
    mixer = _attention(spec)
    if mixer is None or mixer.position != "rope":
        return {}
    found: dict[str, Any] = {"rope_theta": mixer.rope_theta}
    if mixer.rope_scaling:
        s = mixer.rope_scaling
        factors = {
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
        }
        found["rope_scaling"] = (
            {"rope_type": "llama3"}
            | factors
            | {"original_max_position_embeddings": s.original_context_len}
        )
    return found


def _gpt_rope(spec: ArchSpec) -> dict[str, Any]:
    """GptOssConfig scales RoPE unless it is told not to."""
    found = _rope(spec)
    if "rope_scaling" in spec.constants or "rope_scaling" in found:
        return found
    return {"rope_parameters": found | {"rope_type": "default"}}


def _partial_rope(spec: ArchSpec) -> dict[str, Any]:
    """For classes that turn a part of the head by default."""
    mixer = _attention(spec)
    if mixer is None or mixer.position != "rope":
        return {}
    old = _rope(spec)
    scaling = old.pop("rope_scaling", {"rope_type": "default"})
    return {"rope_parameters": old | {"partial_rotary_factor": mixer.rope_fraction} | scaling}


def _attention(spec: ArchSpec) -> AttentionMixer | None:
    """The first attention of a design, wherever it stands."""
    for layer in spec.stack:
        mixer = (
            layer.mixer
            if isinstance(layer.mixer, AttentionMixer)
            else getattr(layer.mixer, "attention", None)
        )
        if isinstance(mixer, AttentionMixer):
            return mixer
    return None


def _spare_heads(spec: ArchSpec) -> dict[str, Any]:
    """Heads for a class that asks for them even where no layer attends."""
    if _attention(spec):
        return {}
    n_heads = next(n for n in range(max(1, spec.d_model // 64), 0, -1) if spec.d_model % n == 0)
    return {"num_attention_heads": n_heads, "num_key_value_heads": n_heads}


def _expand(key: str = "mamba_expand") -> Callable[[ArchSpec], dict[str, Any]]:
    """d_ssm as a whole multiple of d_model, or nothing."""

    def fields(spec: ArchSpec) -> dict[str, Any]:
        parts = [layer.mixer for layer in spec.stack] + [
            getattr(layer.mixer, "ssm", None) for layer in spec.stack
        ]
        d_ssm = next(
            (part.d_ssm for part in parts if isinstance(part, Mamba1Mixer | Mamba2Mixer)), 0
        )
        return {key: d_ssm // spec.d_model} if d_ssm else {}

    return fields


def _attention_indices(spec: ArchSpec) -> dict[str, Any]:
    return {"attn_layer_indices": [i for i, letter in enumerate(spec.pattern) if letter == "A"]}


def _dt_limit(spec: ArchSpec) -> dict[str, Any]:
    """The smallest dt, where a design sets one; infinity as transformers 5 writes it."""
    parts = [layer.mixer for layer in spec.stack] + [
        getattr(layer.mixer, "ssm", None) for layer in spec.stack
    ]
    dt_min = next((part.dt_min for part in parts if isinstance(part, Mamba2Mixer)), None)
    return {"time_step_limit": [dt_min, {"__float__": "Infinity"}]} if dt_min else {}


def _period(letters: str, letter: str) -> tuple[int, int]:
    """Period and offset of the layers of one letter, or a period that no layer meets."""
    where = [i for i, other in enumerate(letters) if other == letter]
    if not where:
        return len(letters) + 1, len(letters)
    return (where[1] - where[0] if len(where) > 1 else len(letters)), where[0]


def _jamba_layers(spec: ArchSpec) -> dict[str, Any]:
    period, offset = _period(spec.pattern, "A")
    feeds = "".join("E" if isinstance(layer.ffn, MoE) else "F" for layer in spec.stack)
    expert_period, expert_offset = _period(feeds, "E")
    found: dict[str, Any] = {"attn_layer_period": period, "attn_layer_offset": offset}
    if "E" not in feeds:
        return found | {"num_experts": 1}
    if "F" not in feeds:
        found["intermediate_size"] = first_of(spec, MoE).d_expert
    return found | {"expert_layer_period": expert_period, "expert_layer_offset": expert_offset}


def _window(spec: ArchSpec) -> dict[str, Any]:
    swa = first_of(spec, SwaMixer)
    return {"sliding_window": swa.window if swa else None}


def _gemma(spec: ArchSpec) -> dict[str, Any]:
    local, full = first_of(spec, SwaMixer), first_of(spec, AttentionMixer)
    scale = (full or local).softmax_scale or (full or local).head_dim ** -0.5
    thetas = {"rope_theta": full.rope_theta} if full else {}
    thetas |= (
        {"rope_local_base_freq": local.rope_theta, "sliding_window": local.window} if local else {}
    )
    return thetas | {"query_pre_attn_scalar": round(scale**-2)}


def _zamba2(spec: ArchSpec) -> dict[str, Any]:
    blocks = {
        layer.mixer.block for layer in spec.stack if isinstance(layer.mixer, SharedBlockMixer)
    }
    attention = _attention(spec)
    return {
        "num_mem_blocks": len(blocks),
        "use_mem_rope": attention is not None and attention.position == "rope",
    }


def _falcon(spec: ArchSpec) -> dict[str, Any]:
    mixer = first_of(spec, IntraMixer)
    return {"mamba_norm_before_gate": mixer.ssm.norm_first} if mixer and mixer.ssm_norm else {}


def _nemotron_layers(spec: ArchSpec) -> dict[str, Any]:
    names = {"M": "mamba", "A": "attention", "-": "mlp"}
    return {
        "layers_block_type": [
            "moe" if isinstance(layer.ffn, MoE) else names.get(layer.letter, "?")
            for layer in spec.stack
        ]
    }


def _granite(spec: ArchSpec) -> dict[str, Any]:
    moe, mixer = first_of(spec, MoE), _attention(spec)
    found: dict[str, Any] = {"num_local_experts": moe.n_routed} if moe else {"num_local_experts": 0}
    if mixer:
        found |= {"attention_multiplier": mixer.softmax_scale or mixer.head_dim**-0.5}
        found |= {"position_embedding_type": "rope" if mixer.position == "rope" else "nope"}
    return found


def _qwen(spec: ArchSpec) -> dict[str, Any]:
    return {
        "mlp_only_layers": [
            i for i, layer in enumerate(spec.stack) if not isinstance(layer.ffn, MoE)
        ]
    }


def _kimi(spec: ArchSpec) -> dict[str, Any]:
    return {
        "mlp_layer_types": [
            "sparse" if isinstance(layer.ffn, MoE) else "dense" for layer in spec.stack
        ]
    }


def _lfm(spec: ArchSpec) -> dict[str, Any]:
    return {"block_auto_adjust_ff_dim": False}


def _recurrent(spec: ArchSpec) -> dict[str, Any]:
    ffn = spec.stack[0].ffn
    return {"intermediate_size": 2 * ffn.d_ff} if isinstance(ffn, SwiGLU) else {}


EXPERTS = {"num_experts_per_tok": "top_k"}
RMS, LAYER = "rms_norm_eps", "layer_norm_epsilon"
HYBRID = {"A": "attention", "M": "mamba", "m": "mamba", "Z": "hybrid"}
FAMILIES: dict[str, _Family] = {
    "llama": _Family(
        "LlamaForCausalLM",
        RMS,
        {AttentionMixer: BIASED | {"head_dim": "head_dim"}, SwiGLU: GATED | {"mlp_bias": "bias"}},
        (_rope,),
    ),
    "mistral": _Family(
        "MistralForCausalLM",
        RMS,
        {SwaMixer: HEADS | {"head_dim": "head_dim", "rope_theta": "rope_theta"}, SwiGLU: GATED},
        (_window,),
    ),
    "gemma3_text": _Family(
        "Gemma3ForCausalLM",
        RMS,
        {
            SwaMixer: BIASED | {"head_dim": "head_dim"},
            AttentionMixer: BIASED | {"head_dim": "head_dim"},
            SwiGLU: {"intermediate_size": "d_ff", "hidden_activation": ACT},
        },
        (_gemma, _names("layer_types", S="sliding_attention", A="full_attention")),
    ),
    "gpt_oss": _Family(
        "GptOssForCausalLM",
        RMS,
        {
            SwaMixer: BIASED | {"head_dim": "head_dim"},
            AttentionMixer: BIASED | {"head_dim": "head_dim"},
            MoE: EXPERTS | {"num_local_experts": "n_routed", "intermediate_size": "d_expert"},
        },
        (_gpt_rope, _window, _names("layer_types", S="sliding_attention", A="full_attention")),
    ),
    "mamba": _Family("MambaForCausalLM", LAYER, {Mamba1Mixer: PLAIN_MAMBA1}, (_expand("expand"),)),
    "falcon_mamba": _Family(
        "FalconMambaForCausalLM",
        LAYER,
        {Mamba1Mixer: PLAIN_MAMBA1 | {"mixer_rms_eps": "dt_bc_eps"}},
        (_expand("expand"),),
    ),
    "mamba2": _Family(
        "Mamba2ForCausalLM",
        LAYER,
        {
            Mamba2Mixer: {
                "num_heads": "n_heads",
                "head_dim": "head_dim",
                "state_size": "d_state",
                "conv_kernel": "d_conv",
                "n_groups": "n_groups",
                "chunk_size": "chunk_size",
                "use_bias": "in_bias",
                "use_conv_bias": "conv_bias",
            }
        },
        (_expand("expand"), _dt_limit),
    ),
    "bamba": _Family(
        "BambaForCausalLM",
        RMS,
        {AttentionMixer: BIASED, Mamba2Mixer: MAMBA2, SwiGLU: GATED | {"mlp_bias": "bias"}},
        (_spare_heads, _partial_rope, _expand(), _dt_limit, _attention_indices),
    ),
    "jamba": _Family(
        "JambaForCausalLM",
        RMS,
        {
            AttentionMixer: HEADS,
            Mamba1Mixer: MAMBA1,
            SwiGLU: GATED,
            MoE: EXPERTS | {"num_experts": "n_routed"},
        },
        (_spare_heads, _expand(), _jamba_layers),
    ),
    "zamba": _Family(
        "ZambaForCausalLM",
        RMS,
        {
            Mamba1Mixer: MAMBA1 | {"n_mamba_heads": "n_heads"},
            SharedBlockMixer: {key: f"attention.{ours}" for key, ours in HEADS.items()}
            | {key: f"ffn.{ours}" for key, ours in GATED.items()},
        },
        (_expand(), _names("layers_block_type", **HYBRID)),
    ),
    "zamba2": _Family(
        "Zamba2ForCausalLM",
        RMS,
        {
            Mamba2Mixer: {
                "n_mamba_heads": "n_heads",
                "mamba_d_state": "d_state",
                "mamba_d_conv": "d_conv",
                "mamba_ngroups": "n_groups",
                "chunk_size": "chunk_size",
                "add_bias_linear": "in_bias",
            },
            SharedBlockMixer: {key: f"attention.{ours}" for key, ours in HEADS.items()}
            | {key: f"ffn.{ours}" for key, ours in GATED.items()}
            | {
                "adapter_rank": "adapter_rank",
                "use_shared_attention_adapter": "attention_adapters",
            },
        },
        (_expand(), _dt_limit, _zamba2, _rope, _names("layers_block_type", **HYBRID)),
    ),
    "falcon_h1": _Family(
        "FalconH1ForCausalLM",
        RMS,
        {
            IntraMixer: {
                key: f"attention.{ours}"
                for key, ours in (BIASED | {"head_dim": "head_dim"}).items()
            }
            | {
                key: f"ssm.{ours}"
                for key, ours in (
                    MAMBA2 | {"mamba_d_ssm": "d_ssm", "projectors_bias": "out_bias"}
                ).items()
            }
            | {"mamba_rms_norm": "ssm_norm"},
            Mamba2Mixer: {},
            SwiGLU: GATED | {"mlp_bias": "bias"},
        },
        (_rope, _dt_limit, _falcon),
    ),
    "nemotron_h": _Family(
        "NemotronHForCausalLM",
        LAYER,
        {
            AttentionMixer: HEADS | {"head_dim": "head_dim"},
            Mamba2Mixer: {
                "mamba_num_heads": "n_heads",
                "mamba_head_dim": "head_dim",
                "ssm_state_size": "d_state",
                "conv_kernel": "d_conv",
                "n_groups": "n_groups",
                "chunk_size": "chunk_size",
                "use_bias": "in_bias",
                "use_conv_bias": "conv_bias",
            },
            Mlp: {"intermediate_size": "d_ff", "mlp_hidden_act": ACT, "mlp_bias": "bias"},
            MoE: EXPERTS
            | {
                "n_routed_experts": "n_routed",
                "n_shared_experts": "n_shared",
                "moe_intermediate_size": "d_expert",
                "moe_shared_expert_intermediate_size": "shared_width",
                "moe_latent_size": "d_latent",
                "norm_topk_prob": "norm_top_k",
                "routed_scaling_factor": "scale",
                "mlp_hidden_act": ACT,
            },
        },
        (_dt_limit, _nemotron_layers),
        n_layers=False,
    ),
    "granitemoehybrid": _Family(
        "GraniteMoeHybridForCausalLM",
        RMS,
        {
            AttentionMixer: BIASED,
            Mamba2Mixer: MAMBA2,
            SwiGLU: {
                "shared_intermediate_size": "d_ff",
                "intermediate_size": "d_ff",
                "hidden_act": ACT,
            },
            MoE: EXPERTS
            | {
                "intermediate_size": "d_expert",
                "shared_intermediate_size": "shared_width",
                "hidden_act": ACT,
            },
        },
        (_spare_heads, _expand(), _dt_limit, _granite, _rope, _names("layer_types", **HYBRID)),
    ),
    "qwen3_next": _Family(
        "Qwen3NextForCausalLM",
        RMS,
        {
            AttentionMixer: HEADS | {"head_dim": "head_dim"},
            GatedDeltaNetMixer: {
                "linear_num_key_heads": "n_k_heads",
                "linear_num_value_heads": "n_v_heads",
                "linear_key_head_dim": "k_head_dim",
                "linear_value_head_dim": "v_head_dim",
                "linear_conv_kernel_dim": "d_conv",
            },
            SwiGLU: GATED,
            MoE: EXPERTS
            | {
                "num_experts": "n_routed",
                "moe_intermediate_size": "d_expert",
                "shared_expert_intermediate_size": "shared_width",
                "norm_topk_prob": "norm_top_k",
            },
        },
        (_partial_rope, _qwen, _names("layer_types", G="linear_attention", A="full_attention")),
    ),
    "kimi_linear": _Family(
        "KimiLinearForCausalLM",
        RMS,
        {
            LatentAttentionMixer: {
                "num_attention_heads": "n_heads",
                "qk_nope_head_dim": "nope_head_dim",
                "qk_rope_head_dim": "rope_head_dim",
                "v_head_dim": "v_head_dim",
                "kv_lora_rank": "kv_rank",
                "q_lora_rank": "q_rank",
                "attention_bias": "bias",
            },
            KimiDeltaMixer: {
                "linear_num_heads": "n_heads",
                "linear_head_dim": "head_dim",
                "linear_conv_kernel_dim": "d_conv",
            },
            SwiGLU: GATED,
            MoE: {
                "num_experts": "n_routed",
                "num_experts_per_token": "top_k",
                "num_shared_experts": "n_shared",
                "moe_intermediate_size": "d_expert",
                "moe_renormalize": "norm_top_k",
                "routed_scaling_factor": "scale",
            },
        },
        (_kimi, _names("layer_types", K="linear_attention", L="full_attention")),
    ),
    "lfm2": _Family(
        "Lfm2ForCausalLM",
        "norm_eps",
        {
            AttentionMixer: HEADS,
            ShortConvMixer: {"conv_L_cache": "d_conv", "conv_bias": "bias"},
            SwiGLU: {"intermediate_size": "d_ff"},
        },
        (_rope, _lfm, _names("layer_types", C="conv", A="full_attention")),
    ),
    "recurrent_gemma": _Family(
        "RecurrentGemmaForCausalLM",
        RMS,
        {
            SwaMixer: BIASED | {"attention_window_size": "window"},
            RgLruMixer: {
                "lru_width": "width",
                "conv1d_width": "d_conv",
                "num_attention_heads": "n_blocks",
            },
            SwiGLU: {"hidden_activation": ACT},
        },
        (
            _partial_rope,
            _recurrent,
            lambda spec: {
                "block_types": [{"R": "recurrent", "S": "attention"}[x] for x in spec.pattern]
            },
        ),
    ),
}
# transformers has more classes than those of the table above: a refusal speaks of those alone.
NONE_WRITTEN = f"none of the {len(FAMILIES)} classes of transformers that are written here"
# Constants that a reader makes itself, from the family.
IMPLIED = ("norm_offset", "gated_norm_eps")


def hf_config(spec: ArchSpec) -> dict[str, Any]:
    """A config.json that AutoConfig loads and that is this design. Raises ExportError with what no
    class written here says."""
    used = _kinds(spec)
    holding = [name for name, family in FAMILIES.items() if set(used) <= set(family.fields)]
    if not holding:
        raise ExportError(f"hf: {', '.join(used.values())} - {NONE_WRITTEN} has these in one stack")
    differences = []
    for name in holding:
        config = _config(spec, name, FAMILIES[name])
        try:
            difference = first_difference(spec, spec_from_config(config, spec.name))
        except SpecError as error:
            difference = str(error)
        if difference is None:
            return config
        differences.append((name, difference))
    name, difference = min(differences, key=lambda found: found[1].startswith("layer 1 "))
    raise ExportError(f"hf: {difference} - {NONE_WRITTEN} says this; {name} comes closest")


def _kinds(spec: ArchSpec) -> dict[type[Any], str]:
    """The types that a design is made of, those inside its mixers among them, with their names."""
    inside = (
        part
        for layer in spec.stack
        for part in (layer.mixer, getattr(layer.mixer, "ssm", None), layer.ffn)
    )
    return {
        type(part): part.kind
        for part in inside
        if part is not None and not isinstance(part, NoMixer)
    }


def _config(spec: ArchSpec, name: str, family: _Family) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": name}
    config |= {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        family.eps: spec.norm_eps,
    }
    config |= {"tie_word_embeddings": spec.tie_embeddings} | (
        {"num_hidden_layers": spec.n_layers} if family.n_layers else {}
    )
    for kind, fields in family.fields.items():
        part = first_of(spec, kind)
        if part is not None:
            config |= {key: _value(part, ours) for key, ours in fields.items()}
    for more in family.more:
        config |= more(spec)
    implied = {"embedding_multiplier"} if name in ("gemma3_text", "recurrent_gemma") else set()
    config |= {
        key: value for key, value in spec.constants.items() if key not in {*IMPLIED, *implied}
    }
    if spec.state_dtype:
        config["mamba_ssm_cache_dtype"] = _STATE_DTYPES[spec.state_dtype]
    return {key: value for key, value in config.items() if value is not None}


def _value(part: Any, path: str) -> Any:
    """An attribute by its dotted path; None where this part has no such thing."""
    try:
        value = attrgetter(path)(part)
    except AttributeError:
        return None
    return ACTIVATIONS.get(value, value) if isinstance(value, str) else value


def first_difference(spec: ArchSpec, other: ArchSpec) -> str | None:
    """The first thing of `spec` that `other` has otherwise, in words, or None where they are the
    same model."""
    if spec.n_layers != other.n_layers:
        return f"n_layers: {spec.n_layers}"
    for index, (one, another) in enumerate(zip(spec.stack, other.stack, strict=True), start=1):
        mine, theirs = _one_shared(one), _one_shared(another)
        if mine != theirs:
            return f"layer {index}: {_of_layer(mine, theirs)}"
    for key in (
        "vocab_size",
        "tie_embeddings",
        "norm_eps",
        "d_model",
        "post_norm",
        "norm",
        "meta_tokens",
        "outside_params",
        "constants",
    ):
        if getattr(spec, key) != getattr(other, key):
            return f"{key}: {short(getattr(spec, key))}"
    return None


def _one_shared(layer: Layer) -> Layer:
    """Several shared experts are one of their width together: all of them see every token."""
    ffn = layer.ffn
    if not isinstance(ffn, MoE) or not ffn.n_shared:
        return layer
    return layer._replace(ffn=ffn.model_copy(update={"n_shared": 1, "d_shared": ffn.shared_width}))


def _of_layer(mine: Layer, theirs: Layer) -> str:
    if mine.mixer != theirs.mixer:
        return f"{mine.mixer.kind}{_of_part(mine.mixer, theirs.mixer)}"
    return (
        "ffn: none" if mine.ffn is None else f"ffn {mine.ffn.kind}{_of_part(mine.ffn, theirs.ffn)}"
    )


def _of_part(mine: Mixer | AnyFfn, theirs: Mixer | AnyFfn | None) -> str:
    """The path to what differs inside a part, and its value; nothing where the other is of another
    kind."""
    if type(mine) is not type(theirs):
        return ""
    key = next(key for key in type(mine).model_fields if getattr(mine, key) != getattr(theirs, key))
    value, other = getattr(mine, key), getattr(theirs, key)
    if isinstance(value, Mixer) and isinstance(other, Mixer):
        return f".{key}{_of_part(value, other)}"
    return f".{key}: {short(value)}"


# ---------------------------------------------------------------- all formats


def _yaml(spec: ArchSpec) -> Files:
    return {"spec.yaml": spec.to_yaml()}


def _hf(spec: ArchSpec) -> Files:
    return {"config.json": json.dumps(hf_config(spec), indent=2) + "\n"}


def _megatron(spec: ArchSpec) -> Files:
    flags = megatron.to_megatron(spec)
    ssm = first_of(spec, Mamba2Mixer)
    _same(
        spec,
        megatron.from_megatron(flags, megatron.block_sizes(spec), ssm.chunk_size if ssm else 128),
        megatron.VERSION,
    )
    return {"megatron.args": megatron.megatron_text(spec, flags)}


def _fla(spec: ArchSpec) -> Files:
    config = frameworks.to_fla(spec)
    _same(spec, frameworks.from_fla(config), frameworks.FLA)
    return {"config.json": json.dumps(config, indent=2) + "\n"}


def _torchtitan(spec: ArchSpec) -> Files:
    told = frameworks.to_torchtitan(spec)
    _same(spec, frameworks.from_torchtitan(told), "torchtitan's Llama 3")
    return {"model_config.py": frameworks.torchtitan_text(spec, told)}


def _python(spec: ArchSpec) -> Files:
    require_built(spec)
    return {"model.py": snippet(spec)}


def _same(spec: ArchSpec, design: dict[str, Any], format_name: str) -> None:
    """Raise SpecError unless the design that was read back is the one that was written."""
    kept = {key: value for key, value in design.items() if value is not None}
    difference = first_difference(
        spec, ArchSpec.from_mapping({"schema": 1, "name": spec.name} | kept)
    )
    if difference:
        raise SpecError(f"{difference} - {format_name} cannot say it")


FORMATS: dict[str, Callable[[ArchSpec], Files]] = {
    "yaml": _yaml,
    "hf": _hf,
    "megatron": _megatron,
    "fla": _fla,
    "torchtitan": _torchtitan,
    "python": _python,
}


# What the state dtype is called where an engine reads it from a config.
_STATE_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def notes(spec: ArchSpec, to: str) -> list[str]:
    """What a user of an export should know, a line each: kernels that refuse a shape, and what is
    no part of the format."""
    if to in ("yaml", "python"):
        return []
    lines = (
        [f"kernel shape: {line}" for line in kernel_refusals(spec)] if to in KERNEL_FORMATS else []
    )
    if spec.quantization:
        lines.append(
            "quantization: not written - the weights are described as they are before they are quantised"
        )
    if spec.state_dtype and to != "hf":
        lines.append(
            f"state_dtype: {spec.state_dtype} - not written: this format has no field for it"
        )
    return lines


def export(spec: ArchSpec, to: str) -> Files:
    """The files of a design in one of FORMATS, by name. Raises ExportError, in one line, with what
    the format cannot say."""
    if to not in FORMATS:
        raise SpecError(f"to: {to!r} - must be {' or '.join(FORMATS)}")
    try:
        return FORMATS[to](spec)
    except SpecError as error:
        raise ExportError(f"{to}: {str(error).removeprefix(f'{to}: ')}") from None
