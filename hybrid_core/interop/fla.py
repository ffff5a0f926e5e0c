"""Designs as configs of fla.models 0.6.0, and back.

The reader applies FLA's fixed choices, such as heads of d_model / num_heads. So the design that it
reads back is the one that FLA would run."""

from math import ceil
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError

VERSION = "fla.models 0.6"
Config = dict[str, Any]


# ---------------------------------------------------------------- out


def to_fla(spec: ArchSpec) -> Config:
    """A config of the fla.models class with these kinds of layer: transformer, mamba, mamba2, samba
    or gated_deltanet. Raises SpecError if there is no such class."""
    kinds = {type(layer.mixer) for layer in spec.stack}
    if KimiDeltaMixer in kinds:
        rule = f"the output gate of {VERSION}'s kda has a bias, which this mixer does not have"
        raise SpecError(f"kda - {rule}")
    recurrent = kinds - {AttentionMixer, SwaMixer}
    if not recurrent and len(kinds) == 1:
        return _model(spec) | _transformer(spec)
    if kinds == {Mamba2Mixer}:
        return _model(spec) | _mamba2(spec)
    if recurrent == {Mamba1Mixer}:
        return _model(spec) | _mamba1(spec)
    if recurrent == {GatedDeltaNetMixer}:
        return _model(spec) | _gated_deltanet(spec)
    named = sorted({layer.mixer.kind for layer in spec.stack})
    raise SpecError(f"{' with '.join(named)} - {VERSION} has no class with these layers")


def _model(spec: ArchSpec) -> Config:
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
        "fuse_norm": True,
    }


def _transformer(spec: ArchSpec) -> Config:
    attention = first_of(spec, AttentionMixer) or first_of(spec, SwaMixer)
    config = {
        "model_type": "transformer",
        "num_heads": attention.n_heads,
        "num_kv_heads": attention.n_kv_heads,
        "qkv_bias": attention.qkv_bias,
        "qk_norm": attention.qk_norm,
        "window_size": getattr(attention, "window", None),
        "rope_theta": attention.rope_theta,
    }
    return config | _width(spec)


def _width(spec: ArchSpec) -> Config:
    ffn = first_of(spec, SwiGLU)
    return {"intermediate_size": ffn.d_ff} if ffn else {}


def _mamba2(spec: ArchSpec) -> Config:
    ssm = first_of(spec, Mamba2Mixer)
    return {
        "model_type": "mamba2",
        "head_dim": ssm.head_dim,
        "state_size": ssm.d_state,
        "conv_kernel": ssm.d_conv,
        "n_groups": ssm.n_groups,
        "chunk_size": ssm.chunk_size,
        "use_bias": ssm.in_bias,
        "use_conv_bias": ssm.conv_bias,
        "expand": ssm.d_ssm // spec.d_model,
        "rmsnorm": ssm.gated_norm,
        "norm_before_gate": ssm.norm_first,
    }


def _mamba1(spec: ArchSpec) -> Config:
    """The class mamba for a stack of only Mamba-1 layers, else samba."""
    ssm = first_of(spec, Mamba1Mixer)
    ffn = first_of(spec, SwiGLU)
    config = {
        "state_size": ssm.d_state,
        "conv_kernel": ssm.d_conv,
        "time_step_rank": ssm.dt_rank,
        "expand": ssm.d_ssm // spec.d_model,
        "use_bias": ssm.proj_bias,
        "use_conv_bias": ssm.conv_bias,
    }
    attn = _attentions(spec)
    if attn is None and ffn is None:
        return config | {"model_type": "mamba"}
    config |= {"model_type": "samba", "attn": attn}
    if ffn:
        config["hidden_ratio"] = 1.5 * ffn.d_ff / spec.d_model
    return config


def _gated_deltanet(spec: ArchSpec) -> Config:
    """Gated DeltaNet. FLA's default gate activation is swish, as in Qwen3-Next."""
    delta = first_of(spec, GatedDeltaNetMixer)
    config = {
        "model_type": "gated_deltanet",
        "num_heads": delta.n_k_heads,
        "num_v_heads": delta.n_v_heads,
        "head_dim": delta.k_head_dim,
        "expand_v": delta.v_head_dim / delta.k_head_dim,
        "conv_size": delta.d_conv,
        "attn": _attentions(spec),
    }
    return config | _width(spec)


def _attentions(spec: ArchSpec) -> Config | list[Config] | None:
    """The field `attn` of FLA's hybrids: a list with one entry per kind of attention layer, or just
    the entry if there is only one. None if the design has no attention layer."""
    found = []
    for kind in (AttentionMixer, SwaMixer):
        if first_of(spec, kind):
            found.append(_attention(spec, kind))
    if not found:
        return None
    return found[0] if len(found) == 1 else found


def _attention(spec: ArchSpec, kind: type[Any]) -> Config:
    mixer = first_of(spec, kind)
    layers = [i for i, layer in enumerate(spec.stack) if type(layer.mixer) is kind]
    return {
        "layers": layers,
        "num_heads": mixer.n_heads,
        "num_kv_heads": mixer.n_kv_heads,
        "qkv_bias": mixer.qkv_bias,
        "rope_theta": mixer.rope_theta,
        "window_size": getattr(mixer, "window", None),
    }


# ---------------------------------------------------------------- in


def from_fla(config: Config) -> dict[str, Any]:
    """The design of a config of fla.models."""
    n = config["num_hidden_layers"]
    design: dict[str, Any] = {
        "vocab_size": config.get("vocab_size"),
        "norm_eps": config.get("norm_eps"),
        "d_model": config["hidden_size"],
        "n_layers": n,
        "tie_embeddings": config.get("tie_word_embeddings"),
    }
    kind = config["model_type"]
    if kind == "transformer":
        mixer = _from_attention(config, config["hidden_size"])
        return design | {
            "mixers": {"0": mixer},
            "layers": {"pattern": "0" * n},
            "ffn": _from_width(config),
        }
    if kind == "gated_deltanet":
        return design | _from_gated_deltanet(config)
    if kind == "samba":
        ratio = config.get("hidden_ratio", 4)
        width = _default_width(config["hidden_size"], ratio)
        design["ffn"] = {"kind": "swiglu", "d_ff": width}
        design["ssm"] = _from_mamba1(config)
        return design | _from_layers(config, "M")
    ssm = _from_mamba2(config) if kind == "mamba2" else _from_mamba1(config)
    return design | {"ssm": ssm, "layers": {"strategy": "mamba"}}


def _from_ssm(config: Config) -> dict[str, Any]:
    """The fields that both kinds of Mamba share."""
    expand = config.get("expand", 2)
    return {
        "d_ssm": expand * config["hidden_size"],
        "d_state": config.get("state_size"),
        "d_conv": config.get("conv_kernel"),
        "conv_bias": config.get("use_conv_bias"),
    }


def _from_mamba1(config: Config) -> dict[str, Any]:
    return _from_ssm(config) | {
        "kind": "mamba1",
        "dt_rank": config.get("time_step_rank"),
        "proj_bias": config.get("use_bias"),
    }


def _from_mamba2(config: Config) -> dict[str, Any]:
    return _from_ssm(config) | {
        "head_dim": config.get("head_dim"),
        "n_groups": config.get("n_groups"),
        "chunk_size": config.get("chunk_size"),
        "in_bias": config.get("use_bias"),
        "out_bias": config.get("use_bias"),
        "gated_norm": config.get("rmsnorm"),
        "norm_first": config.get("norm_before_gate"),
    }


def _from_layers(config: Config, letter: str) -> dict[str, Any]:
    """The mixers that the entries of `attn` describe, and the pattern: `letter` in the layers that
    no entry names."""
    attn = config["attn"] or []
    entries = attn if isinstance(attn, list) else [attn]
    d_model = config["hidden_size"]
    letters = [letter] * config["num_hidden_layers"]
    mixers = {}
    for number, entry in enumerate(entries):
        mixers[str(number)] = _from_attention(entry, d_model)
        for layer in entry["layers"]:
            letters[layer] = str(number)
    pattern = "".join(letters)
    return {"mixers": mixers, "layers": {"pattern": pattern}}


def _from_gated_deltanet(config: Config) -> dict[str, Any]:
    delta = {
        "kind": "gated_deltanet",
        "n_k_heads": config["num_heads"],
        "n_v_heads": config["num_v_heads"],
        "k_head_dim": config["head_dim"],
        "v_head_dim": int(config["head_dim"] * config["expand_v"]),
        "d_conv": config["conv_size"],
    }
    design = _from_layers(config, "R")
    design["mixers"]["R"] = delta
    return design | {"ffn": _from_width(config)}


def _from_attention(attn: Config, d_model: int) -> dict[str, Any]:
    """An attention layer. FLA's heads are d_model / num_heads wide and always have RoPE."""
    section: dict[str, Any] = {"kind": "attention"}
    window = attn["window_size"]
    if window:
        section = {"kind": "swa", "window": window, "sink": 0}
    return section | {
        "n_heads": attn["num_heads"],
        "n_kv_heads": attn["num_kv_heads"],
        "head_dim": d_model // attn["num_heads"],
        "rope_theta": attn["rope_theta"],
        "qkv_bias": attn["qkv_bias"],
        "qk_norm": attn.get("qk_norm", False),
    }


def _from_width(config: Config) -> dict[str, Any]:
    width = config.get("intermediate_size") or _default_width(config["hidden_size"], 4)
    return {"kind": "swiglu", "d_ff": width}


def _default_width(d_model: int, ratio: float) -> int:
    """The width of FLA's gated feed-forward: two thirds of ratio * d_model, rounded up to a
    multiple of 256 (fla/modules/mlp.py)."""
    two_thirds = int(d_model * ratio * 2 / 3)
    return ceil(two_thirds / 256) * 256
