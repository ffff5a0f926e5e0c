"""Designs for training frameworks: FLA's config, torchtitan's arguments (Megatron's flags:
megatron.py). Each has a writer and a reader.

Field names as of fla.models 0.6.0 and the Llama 3 of torchtitan 0.3.0; what else torchtitan has:
its main branch at b5bcd76 (2026-08-21). A framework's reader knows its fixed choices (FLA's heads
share d_model), so what it reads back is what would run."""

from math import ceil
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.megatron import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError

# ---------------------------------------------------------------- FLA


FLA = "fla.models 0.6"


def to_fla(spec: ArchSpec) -> dict[str, Any]:
    """A config of fla.models: transformer, mamba, mamba2, samba or gated_deltanet, by the kinds of
    layer."""
    kinds = {type(layer.mixer) for layer in spec.stack}
    recurrent = kinds - {AttentionMixer, SwaMixer}
    config: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
    }
    config |= {
        "norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
        "fuse_norm": True,
    }
    if KimiDeltaMixer in kinds:
        raise SpecError(
            f"kda - the output gate of {FLA}'s kda has a bias, which this mixer has not"
        )
    if not recurrent and len(kinds) == 1:
        return config | _fla_transformer(spec)
    if kinds == {Mamba2Mixer}:
        return config | _fla_mamba2(spec)
    if recurrent == {Mamba1Mixer}:
        return config | _fla_mamba1(spec)
    if recurrent == {GatedDeltaNetMixer}:
        return config | _fla_gated_deltanet(spec)
    named = sorted({layer.mixer.kind for layer in spec.stack})
    raise SpecError(f"{' beside '.join(named)} - {FLA} has no class with these layers")


def _fla_transformer(spec: ArchSpec) -> dict[str, Any]:
    attention, ffn = (
        first_of(spec, AttentionMixer) or first_of(spec, SwaMixer),
        first_of(spec, SwiGLU),
    )
    heads = {
        "num_heads": attention.n_heads,
        "num_kv_heads": attention.n_kv_heads,
        "qkv_bias": attention.qkv_bias,
    }
    heads |= {
        "qk_norm": attention.qk_norm,
        "window_size": getattr(attention, "window", None),
        "rope_theta": attention.rope_theta,
    }
    return {"model_type": "transformer"} | heads | ({"intermediate_size": ffn.d_ff} if ffn else {})


def _fla_mamba2(spec: ArchSpec) -> dict[str, Any]:
    s = first_of(spec, Mamba2Mixer)
    config = {
        "model_type": "mamba2",
        "head_dim": s.head_dim,
        "state_size": s.d_state,
        "conv_kernel": s.d_conv,
    }
    config |= {
        "n_groups": s.n_groups,
        "chunk_size": s.chunk_size,
        "use_bias": s.in_bias,
        "use_conv_bias": s.conv_bias,
    }
    return config | {
        "expand": s.d_ssm // spec.d_model,
        "rmsnorm": s.gated_norm,
        "norm_before_gate": s.norm_first,
    }


def _fla_mamba1(spec: ArchSpec) -> dict[str, Any]:
    """mamba where nothing else stands in the stack, else samba."""
    s, ffn = first_of(spec, Mamba1Mixer), first_of(spec, SwiGLU)
    config = {
        "state_size": s.d_state,
        "conv_kernel": s.d_conv,
        "time_step_rank": s.dt_rank,
        "expand": s.d_ssm // spec.d_model,
    }
    config |= {"use_bias": s.proj_bias, "use_conv_bias": s.conv_bias}
    attn = _fla_attentions(spec)
    if attn is None and ffn is None:
        return config | {"model_type": "mamba"}
    config |= {"model_type": "samba", "attn": attn}
    return config | ({"hidden_ratio": 1.5 * ffn.d_ff / spec.d_model} if ffn else {})


def _fla_gated_deltanet(spec: ArchSpec) -> dict[str, Any]:
    """The gate's activation is FLA's default, swish, as in Qwen3-Next."""
    s, ffn = first_of(spec, GatedDeltaNetMixer), first_of(spec, SwiGLU)
    config = {
        "model_type": "gated_deltanet",
        "num_heads": s.n_k_heads,
        "num_v_heads": s.n_v_heads,
        "head_dim": s.k_head_dim,
    }
    config |= {
        "expand_v": s.v_head_dim / s.k_head_dim,
        "conv_size": s.d_conv,
        "attn": _fla_attentions(spec),
    }
    return config | ({"intermediate_size": ffn.d_ff} if ffn else {})


def _fla_attentions(spec: ArchSpec) -> dict[str, Any] | list[dict[str, Any]] | None:
    """`attn` of FLA's hybrids: one entry a kind of attention layer, alone where there is one, None
    where no layer attends."""
    kinds = {type(layer.mixer) for layer in spec.stack}
    found = [_fla_attention(spec, kind) for kind in (AttentionMixer, SwaMixer) if kind in kinds]
    if not found:
        return None
    return found[0] if len(found) == 1 else found


def _fla_attention(spec: ArchSpec, kind: type[Any]) -> dict[str, Any]:
    mixer = first_of(spec, kind)
    found = {
        "layers": [i for i, layer in enumerate(spec.stack) if type(layer.mixer) is kind],
        "num_heads": mixer.n_heads,
    }
    found |= {
        "num_kv_heads": mixer.n_kv_heads,
        "qkv_bias": mixer.qkv_bias,
        "rope_theta": mixer.rope_theta,
    }
    return found | {"window_size": getattr(mixer, "window", None)}


def from_fla(config: dict[str, Any]) -> dict[str, Any]:
    """The design of a config of fla.models."""
    get, d, n = config.get, config["hidden_size"], config["num_hidden_layers"]
    design: dict[str, Any] = {
        "vocab_size": get("vocab_size"),
        "norm_eps": get("norm_eps"),
        "d_model": d,
        "n_layers": n,
    }
    design |= {"tie_embeddings": get("tie_word_embeddings")}
    if config["model_type"] == "transformer":
        mixers = {"0": _from_fla_attention(config, d)}
        ffn = {"kind": "swiglu", "d_ff": get("intermediate_size") or _fla_width(d, 4)}
        return design | {"mixers": mixers, "layers": {"pattern": "0" * n}, "ffn": ffn}
    if config["model_type"] == "gated_deltanet":
        return design | _from_fla_gated_deltanet(config)
    ssm = {
        "d_ssm": get("expand", 2) * d,
        "d_state": get("state_size"),
        "d_conv": get("conv_kernel"),
        "conv_bias": get("use_conv_bias"),
    }
    if config["model_type"] == "mamba2":
        ssm |= {key: get(key) for key in ("head_dim", "n_groups", "chunk_size")}
        ssm |= {
            "in_bias": get("use_bias"),
            "out_bias": get("use_bias"),
            "gated_norm": get("rmsnorm"),
            "norm_first": get("norm_before_gate"),
        }
        return design | {"ssm": ssm, "layers": {"strategy": "mamba"}}
    ssm |= {"kind": "mamba1", "dt_rank": get("time_step_rank"), "proj_bias": get("use_bias")}
    if config["model_type"] == "mamba":
        return design | {"ssm": ssm, "layers": {"strategy": "mamba"}}
    ffn = {"kind": "swiglu", "d_ff": _fla_width(d, get("hidden_ratio", 4))}
    return design | {"ssm": ssm, "ffn": ffn} | _from_fla_layers(config, "M")


def _from_fla_layers(config: dict[str, Any], letter: str) -> dict[str, Any]:
    """The pattern, `letter` where no entry of `attn` names the layer, and the mixers of those
    entries."""
    attn = config["attn"] or []
    attn = attn if isinstance(attn, list) else [attn]
    letters = {layer: str(i) for i, entry in enumerate(attn) for layer in entry["layers"]}
    mixers = {
        str(i): _from_fla_attention(entry, config["hidden_size"]) for i, entry in enumerate(attn)
    }
    pattern = "".join(letters.get(i, letter) for i in range(config["num_hidden_layers"]))
    return {"mixers": mixers, "layers": {"pattern": pattern}}


def _from_fla_gated_deltanet(config: dict[str, Any]) -> dict[str, Any]:
    delta = {
        "kind": "gated_deltanet",
        "n_k_heads": config["num_heads"],
        "n_v_heads": config["num_v_heads"],
    }
    delta |= {
        "k_head_dim": config["head_dim"],
        "v_head_dim": int(config["head_dim"] * config["expand_v"]),
        "d_conv": config["conv_size"],
    }
    width = config.get("intermediate_size") or _fla_width(config["hidden_size"], 4)
    layers = _from_fla_layers(config, "R")
    return layers | {
        "mixers": layers["mixers"] | {"R": delta},
        "ffn": {"kind": "swiglu", "d_ff": width},
    }


def _from_fla_attention(attn: dict[str, Any], d_model: int) -> dict[str, Any]:
    """FLA's heads are d_model / num_heads wide and always turned."""
    window = (
        {"kind": "swa", "window": attn["window_size"], "sink": 0}
        if attn["window_size"]
        else {"kind": "attention"}
    )
    heads = {
        "n_heads": attn["num_heads"],
        "n_kv_heads": attn["num_kv_heads"],
        "head_dim": d_model // attn["num_heads"],
    }
    return (
        window
        | heads
        | {
            "rope_theta": attn["rope_theta"],
            "qkv_bias": attn["qkv_bias"],
            "qk_norm": attn.get("qk_norm", False),
        }
    )


def _fla_width(d_model: int, ratio: float) -> int:
    """Width of fla's gated feed-forward: two thirds of ratio * d_model, up to a multiple of 256."""
    return ceil(int(d_model * ratio * 2 / 3) / 256) * 256


# ---------------------------------------------------------------- torchtitan


def to_torchtitan(spec: ArchSpec) -> dict[str, Any]:
    """What a Llama 3 of torchtitan is told. torchtitan's gpt_oss (windows) and Qwen3.5 (Gated
    DeltaNet) have no writer here."""
    odd = next(
        (layer.mixer.kind for layer in spec.stack if type(layer.mixer) is not AttentionMixer), None
    )
    if odd:
        raise SpecError(
            f"{odd} - this writes a Llama 3 of torchtitan 0.3, whose layers all have full attention"
        )
    attention, ffn = first_of(spec, AttentionMixer), first_of(spec, SwiGLU)
    if ffn is None:
        raise SpecError(
            "ffn: not a dense gated one in every layer - torchtitan's Llama 3 has no other"
        )
    found: dict[str, Any] = {
        "dim": spec.d_model,
        "n_layers": spec.n_layers,
        "vocab_size": spec.vocab_size,
        "tied": spec.tie_embeddings,
    }
    found |= {
        "n_heads": attention.n_heads,
        "n_kv_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
    }
    found |= {"hidden_dim": ffn.d_ff, "norm_eps": spec.norm_eps, "qk_norm": attention.qk_norm}
    rope: dict[str, Any] = {"theta": attention.rope_theta}
    if s := attention.rope_scaling:
        rope |= {
            "scaling": "llama",
            "scaling_factor": s.factor,
            "original_max_position_embeddings": s.original_context_len,
        }
        rope |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
    return found | {"rope": rope}


def from_torchtitan(told: dict[str, Any]) -> dict[str, Any]:
    """The design of such a Llama 3."""
    rope = dict(told["rope"])
    attention = {key: told[key] for key in ("n_heads", "n_kv_heads", "head_dim", "qk_norm")} | {
        "rope_theta": rope.pop("theta")
    }
    if rope.pop("scaling", None):
        names = {
            "scaling_factor": "factor",
            "original_max_position_embeddings": "original_context_len",
        }
        attention["rope_scaling"] = {names.get(key, key): value for key, value in rope.items()}
    return {
        "vocab_size": told["vocab_size"],
        "tie_embeddings": told["tied"],
        "norm_eps": told["norm_eps"],
        "d_model": told["dim"],
        "n_layers": told["n_layers"],
        "layers": {"strategy": "transformer"},
        "attention": attention,
        "ffn": {"kind": "swiglu", "d_ff": told["hidden_dim"]},
    }


TORCHTITAN = """from functools import partial

from torch import nn
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.config_utils import get_attention_config, make_ffn_config, make_gqa_config
from torchtitan.models.common.param_init import depth_scaled_std
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock


def model_config(attn_backend: str = "flex", max_seq_len: int = 8192) -> Llama3Model.Config:
    def norm(width: int) -> RMSNorm.Config:
        return RMSNorm.Config(normalized_shape=width, eps=norm_eps, param_init={"weight": nn.init.ones_})

    def normal(std: float) -> dict:
        return {"weight": partial(nn.init.trunc_normal_, std=std), "bias": nn.init.zeros_}

    def layer(i: int) -> Llama3TransformerBlock.Config:
        return Llama3TransformerBlock.Config(
            attention_norm=norm(dim),
            ffn_norm=norm(dim),
            attention=make_gqa_config(
                dim=dim,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                head_dim=head_dim,
                qk_norm=norm(head_dim) if qk_norm else None,
                rope=ComplexRoPE.Config(dim=head_dim, max_seq_len=max_seq_len, **rope),
                inner_attention=get_attention_config(attn_backend),
                fuse_qkv=True,
                wqkv_param_init=normal(0.02),
                wo_param_init=normal(depth_scaled_std(0.02, i)),
            ),
            feed_forward=make_ffn_config(
                dim=dim, hidden_dim=hidden_dim, w1_param_init=normal(0.02), w2w3_param_init=normal(depth_scaled_std(0.02, i))
            ),
        )

    embedding = {"weight": partial(nn.init.normal_, std=1.0)}
    return Llama3Model.Config(
        dim=dim,
        vocab_size=vocab_size,
        enable_weight_tying=tied,
        tok_embeddings=Embedding.Config(num_embeddings=vocab_size, embedding_dim=dim, param_init=embedding),
        norm=norm(dim),
        lm_head=Linear.Config(in_features=dim, out_features=vocab_size, param_init=normal(dim**-0.5)),
        layers=[layer(i) for i in range(n_layers)],
    )
"""


def torchtitan_text(spec: ArchSpec, told: dict[str, Any]) -> str:
    """Python that makes the config, for torchtitan's registry of models."""
    values = "\n".join(f"{key} = {value!r}" for key, value in told.items())
    code = TORCHTITAN.replace("\n\n\ndef model_config", f"\n\n{values}\n\n\ndef model_config")
    return f"# {spec.name}: a Llama 3 of torchtitan 0.3.\n{code}"
