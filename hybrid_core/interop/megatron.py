"""Designs as Megatron's flags, and back.

Symbols of layers: Megatron-LM at 089b33b (megatron/core/models/hybrid/layers/utils.py). Flags: its
main branch at d98e8a6 (2026-08-22), which has those of megatron/training/arguments.py and one for
each field of TransformerConfig (megatron/core/transformer/transformer_config.py). The reader
applies Megatron's fixed choices, such as a convolution of 4 in Mamba. So the design that it reads
back is the one that Megatron would run."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError

VERSION = "Megatron-LM at 089b33b"
Flags = dict[str, Any]  # by name, without the dashes; True is a flag without a value
SYMBOLS = {
    "M": "Mamba-2",
    "G": "Gated DeltaNet",
    "*": "attention",
    "-": "feed-forward",
    "E": "mixture of experts",
}
D_CONV = 4  # of MambaMixer (megatron/core/ssm/mamba_mixer.py); no flag changes it

# A windowed layer is an attention layer marked by --window-attn-skip-freq. The symbol W of the
# pattern means DeepSeek-V4's latent attention.
# ---------------------------------------------------------------- the pattern


def megatron_pattern(spec: ArchSpec) -> str:
    """One symbol for each mixer and each feed-forward. Raises SpecError for a layer without a
    symbol."""
    return "".join(_symbols_by_layer(spec))


def _symbols_by_layer(spec: ArchSpec) -> list[str]:
    numbered = enumerate(spec.stack, start=1)
    return [_symbols(number, layer) for number, layer in numbered]


def _symbols(index: int, layer: Layer) -> str:
    mixer = type(layer.mixer)
    if mixer is LatentAttentionMixer:
        rule = "but applies RoPE to its rope_head_dim channels, which have no position here"
        raise SpecError(f"layer {index}: mla - {VERSION} has it (+), {rule}")
    symbol = mixer.entry.symbols.get("megatron")
    if symbol is None:
        known = ", ".join(_kinds_with_symbols())
        rule = f"the hybrid pattern of {VERSION} has no symbol for it; it has them for {known}"
        raise SpecError(f"layer {index}: {mixer.kind} - {rule}")
    return symbol + _feed_symbol(layer)


def _kinds_with_symbols() -> list[str]:
    """The kinds of mixer that the pattern has symbols for, in the order of SYMBOLS."""
    found = []
    for symbol in SYMBOLS:
        for mixer in MIXERS:
            if mixer.entry.symbols.get("megatron") == symbol:
                found.append(mixer.kind)
    return found


def _feed_symbol(layer: Layer) -> str:
    if layer.ffn is None:
        return ""
    return "E" if isinstance(layer.ffn, MoE) else "-"


def block_sizes(spec: ArchSpec) -> list[int]:
    """The number of symbols of each of our layers."""
    return [len(symbols) for symbols in _symbols_by_layer(spec)]


# ---------------------------------------------------------------- flags out


def to_megatron(spec: ArchSpec) -> Flags:
    """Megatron's flags by name; True is a flag without a value. Raises SpecError with what no flag
    can express."""
    flags = _model_flags(spec) | _feed_forward_flags(spec)
    attention = first_of(spec, AttentionMixer) or first_of(spec, SwaMixer)
    if attention:
        flags |= _attention_flags(attention) | _window_flags(spec)
    ssm = first_of(spec, Mamba2Mixer)
    if ssm:
        flags |= _mamba_flags(ssm)
    delta = first_of(spec, GatedDeltaNetMixer)
    if delta:
        flags |= _deltanet_flags(delta)
    moe = first_of(spec, MoE)
    if moe:
        flags |= _expert_flags(moe)
    return flags


def _model_flags(spec: ArchSpec) -> Flags:
    pattern = megatron_pattern(spec)
    flags: Flags = {
        "hybrid-layer-pattern": pattern,
        "num-layers": len(pattern),
        "hidden-size": spec.d_model,
        "vocab-size": spec.vocab_size,
        "normalization": "LayerNorm" if spec.norm == "layer" else "RMSNorm",
        "norm-epsilon": spec.norm_eps,
        "disable-bias-linear": True,
    }
    if not spec.tie_embeddings:
        flags["untie-embeddings-and-output-weights"] = True
    if spec.constants.get("norm_offset") == 1:
        # weights are stored minus 1, in Megatron also those of Gated DeltaNet's norm
        flags["apply-layernorm-1p"] = True
    return flags


def _mamba_flags(ssm: Mamba2Mixer) -> Flags:
    return {
        "mamba-num-heads": ssm.n_heads,
        "mamba-head-dim": ssm.head_dim,
        "mamba-state-dim": ssm.d_state,
        "mamba-num-groups": ssm.n_groups,
    }


def _deltanet_flags(delta: GatedDeltaNetMixer) -> Flags:
    return {
        "linear-num-key-heads": delta.n_k_heads,
        "linear-num-value-heads": delta.n_v_heads,
        "linear-key-head-dim": delta.k_head_dim,
        "linear-value-head-dim": delta.v_head_dim,
        "linear-conv-kernel-dim": delta.d_conv,
    }


def _feed_forward_flags(spec: ArchSpec) -> Flags:
    ffn = first_of(spec, SwiGLU) or first_of(spec, Mlp)
    moe = first_of(spec, MoE)
    if not ffn and not moe:
        return {}
    gated = isinstance(ffn, SwiGLU) or bool(moe and moe.gated)
    activation = "swiglu" if gated else "squared-relu"
    return {
        "ffn-hidden-size": ffn.d_ff if ffn else moe.d_expert,
        activation: True,
    }


def _attention_flags(attention: AttentionMixer) -> Flags:
    flags: Flags = {
        "num-attention-heads": attention.n_heads,
        "group-query-attention": True,
        "num-query-groups": attention.n_kv_heads,
        "kv-channels": attention.head_dim,
    }
    options = {
        "qk-layernorm": attention.qk_norm,
        "attention-output-gate": attention.output_gate,
        "add-qkv-bias": attention.qkv_bias,
    }
    for flag, wanted in options.items():
        if wanted:
            flags[flag] = True
    if attention.sink_logits:
        flags["softmax-type"] = "learnable"
    if attention.softmax_scale is not None:
        flags["softmax-scale"] = attention.softmax_scale
    return flags | _rope_flags(attention)


def _rope_flags(attention: AttentionMixer) -> Flags:
    if attention.position == "nope":
        return {"position-embedding-type": "none"}
    theta = attention.rope_theta
    if theta != round(theta):
        rule = f"--rotary-base of {VERSION} is a whole number"
        raise SpecError(f"attention.rope_theta: {theta} - {rule}")
    flags: Flags = {
        "position-embedding-type": "rope",
        "rotary-base": round(theta),
        "rotary-percent": attention.rope_fraction,
    }
    scaling = attention.rope_scaling
    if scaling:
        flags["use-rope-scaling"] = True
        flags["rope-scaling-factor"] = scaling.factor
    return flags


def _window_flags(spec: ArchSpec) -> Flags:
    """The window, and which symbols of the pattern have it, unless all attention layers do.

    --window-size counts the positions before and after a query. Our window counts the query too."""
    swa = first_of(spec, SwaMixer)
    full = first_of(spec, AttentionMixer)
    if swa is None:
        return {}
    flags = {"window-size": f"{swa.window - 1},0"}
    if full is None:
        return flags
    if full.rope_scaling:
        rule = f"{VERSION} scales RoPE in windowed layers too"
        raise SpecError(f"attention.rope_scaling: factor {full.rope_scaling.factor} - {rule}")
    marks = []  # one per symbol
    for number, layer in enumerate(spec.stack, start=1):
        has_window = type(layer.mixer) is SwaMixer
        for symbol in _symbols(number, layer):
            marks.append("1" if has_window and symbol == "*" else "0")
    return flags | {"window-attn-skip-freq": f"[{','.join(marks)}]"}


def _expert_flags(moe: MoE) -> Flags:
    flags: Flags = {
        "num-experts": moe.n_routed,
        "moe-router-topk": moe.top_k,
        "moe-ffn-hidden-size": moe.d_expert,
        "moe-router-score-function": moe.score,
        "moe-router-topk-scaling-factor": moe.scale,
    }
    if moe.score == "sigmoid":
        flags["moe-router-enable-expert-bias"] = True
    elif not moe.norm_top_k:
        flags["moe-router-pre-softmax"] = True
    if moe.shared_width:
        flags["moe-shared-expert-intermediate-size"] = moe.shared_width
    if moe.shared_gate:
        flags["moe-shared-expert-gate"] = True
    if moe.d_latent:
        flags["moe-latent-size"] = moe.d_latent
    return flags


# ---------------------------------------------------------------- flags in


def from_megatron(flags: Flags, blocks: list[int], chunk_size: int) -> dict[str, Any]:
    """The design of Megatron's flags. `blocks`: the number of symbols of each of our layers.
    `chunk_size`: of the scan; it changes no result and has no flag."""
    pattern, feeds = _from_pattern(flags, blocks)
    design: dict[str, Any] = {
        "vocab_size": flags.get("vocab-size"),
        "norm_eps": flags.get("norm-epsilon"),
        "d_model": flags.get("hidden-size"),
        "tie_embeddings": "untie-embeddings-and-output-weights" not in flags,
        "n_layers": len(blocks),
        "norm": "layer" if flags.get("normalization") == "LayerNorm" else "rms",
        "layers": {"pattern": pattern, "ffns": feeds},
    }
    if "apply-layernorm-1p" in flags:
        design["constants"] = {"norm_offset": 1}
    if "kv-channels" in flags:
        design["attention"] = _from_attention(flags)
    if "S" in pattern:
        before, _ = flags["window-size"].split(",")
        swa = {"window": int(before) + 1, "sink": 0}
        design["swa"] = swa | _theta(flags)
    if "mamba-num-heads" in flags:
        design["ssm"] = _from_mamba(flags) | {"chunk_size": chunk_size}
    if "R" in pattern:
        design["mixers"] = {"R": _from_deltanet(flags)}
    if "F" in feeds:
        design["ffn"] = {
            "kind": "swiglu" if "swiglu" in flags else "mlp",
            "d_ff": flags.get("ffn-hidden-size"),
        }
    if "E" in feeds:
        design["ffns"] = {"E": _from_experts(flags)}
    return design


_FEEDS = {"-": "F", "E": "E"}


def _from_pattern(flags: Flags, blocks: list[int]) -> tuple[str, str]:
    """Our letters of the mixers and of the feed-forwards, one of each per layer."""
    symbols = flags["hybrid-layer-pattern"]
    windowed = _windowed(flags, len(symbols))
    pattern = ""
    feeds = ""
    start = 0
    for size in blocks:
        taken = symbols[start : start + size]
        mixers = {
            "M": "M",
            "G": "R",
            "*": "S" if windowed[start] else "A",
        }
        pattern += mixers.get(taken[0], "-")
        feeds += _FEEDS.get(taken[-1], "-")
        start += size
    return pattern, feeds


def _windowed(flags: Flags, n_symbols: int) -> list[bool]:
    """Whether each symbol has a window: the marked ones do, or all if the flags mark none."""
    marks = flags.get("window-attn-skip-freq")
    if marks:
        return [mark == "1" for mark in marks.strip("[]").split(",")]
    return ["window-size" in flags] * n_symbols


def _from_mamba(flags: Flags) -> dict[str, Any]:
    return {
        "d_ssm": flags["mamba-num-heads"] * flags["mamba-head-dim"],
        "head_dim": flags["mamba-head-dim"],
        "d_state": flags.get("mamba-state-dim"),
        "n_groups": flags.get("mamba-num-groups"),
        "d_conv": D_CONV,
    }


def _from_deltanet(flags: Flags) -> dict[str, Any]:
    return {
        "kind": "gated_deltanet",
        "n_k_heads": flags.get("linear-num-key-heads"),
        "n_v_heads": flags.get("linear-num-value-heads"),
        "k_head_dim": flags.get("linear-key-head-dim"),
        "v_head_dim": flags.get("linear-value-head-dim"),
        "d_conv": flags.get("linear-conv-kernel-dim"),
    }


def _from_attention(flags: Flags) -> dict[str, Any]:
    heads = {
        "n_heads": flags["num-attention-heads"],
        "n_kv_heads": flags["num-query-groups"],
        "head_dim": flags["kv-channels"],
        "qk_norm": "qk-layernorm" in flags,
        "output_gate": "attention-output-gate" in flags,
        "qkv_bias": "add-qkv-bias" in flags,
        "sink_logits": flags.get("softmax-type") == "learnable",
    }
    if "softmax-scale" in flags:
        heads["softmax_scale"] = flags["softmax-scale"]
    if flags["position-embedding-type"] == "none":
        return heads | {"position": "nope"}
    heads |= _theta(flags)
    heads["rope_fraction"] = flags["rotary-percent"]
    if "use-rope-scaling" in flags:
        heads["rope_scaling"] = {"factor": flags["rope-scaling-factor"]}
    return heads


def _theta(flags: Flags) -> dict[str, Any]:
    if "rotary-base" not in flags:
        return {}
    return {"rope_theta": float(flags["rotary-base"])}


def _from_experts(flags: Flags) -> dict[str, Any]:
    gated = "swiglu" in flags
    d_expert = flags["moe-ffn-hidden-size"]
    shared = flags.get("moe-shared-expert-intermediate-size")
    activation = "silu" if gated else "relu2"
    own_width = shared if shared != d_expert else None
    return {
        "kind": "moe",
        "n_routed": flags["num-experts"],
        "top_k": flags["moe-router-topk"],
        "d_expert": d_expert,
        "score": flags["moe-router-score-function"],
        "scale": flags["moe-router-topk-scaling-factor"],
        "gated": gated,
        "activation": activation,
        "norm_top_k": _normalises(flags),
        "n_shared": 1 if shared else 0,
        "d_shared": own_width,
        "shared_gate": "moe-shared-expert-gate" in flags,
        "d_latent": flags.get("moe-latent-size"),
    }


def _normalises(flags: Flags) -> bool:
    """Whether the weights of the chosen experts are divided by their sum. Megatron does so with
    softmax, unless it is applied before the choice, and with sigmoid if a token chooses several
    experts."""
    if flags["moe-router-score-function"] == "softmax":
        return "moe-router-pre-softmax" not in flags
    return bool(flags["moe-router-topk"] > 1)


# ---------------------------------------------------------------- the file


def megatron_text(spec: ArchSpec, flags: Flags) -> str:
    """The flags, one per line, under comments that explain the pattern."""
    pattern = flags["hybrid-layer-pattern"]
    legend = [f"{symbol} {name}" for symbol, name in SYMBOLS.items() if symbol in pattern]
    lines = [
        f"# {spec.name}, for {VERSION}:",
        f"# {spec.n_layers} blocks are {len(pattern)} symbols of Megatron's hybrid pattern, "
        "which counts each as a layer.",
        f"# {', '.join(legend)}. Megatron-Core 0.16 and older: --hybrid-override-pattern, and",
        "# --spec megatron.core.models.mamba.mamba_layer_specs mamba_stack_spec",
        "--spec megatron.core.models.hybrid.hybrid_layer_specs hybrid_stack_spec",
    ]
    for name, value in flags.items():
        lines.append(f"--{name}" if value is True else f"--{name} {value}")
    return "\n".join(lines) + "\n"
