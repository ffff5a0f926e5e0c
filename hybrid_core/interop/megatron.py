"""Designs as Megatron's flags, and back.

The symbols are those of Megatron-LM at 089b33b (megatron/core/models/hybrid/layers/utils.py), the
flags those of its main branch at d98e8a6 (2026-08-22): megatron/training/arguments.py, and a flag
for each field of TransformerConfig (megatron/core/transformer/transformer_config.py). The reader
knows Megatron's fixed choices (Mamba's convolution is 4 wide), so what it reads back is what would
run."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import SpecError

VERSION = "Megatron-LM at 089b33b"
SYMBOLS = {
    "M": "Mamba-2",
    "G": "Gated DeltaNet",
    "*": "attention",
    "-": "feed-forward",
    "E": "mixture of experts",
}
D_CONV = 4  # of MambaMixer (megatron/core/ssm/mamba_mixer.py); no flag changes it

# A windowed layer is an attention layer that --window-attn-skip-freq marks: the pattern's own W is
# DeepSeek-V4's latent attention.
# ---------------------------------------------------------------- the pattern


def megatron_pattern(spec: ArchSpec) -> str:
    """One symbol a residual step: a block of mixer and feed-forward is two. Raises SpecError for a
    layer without a symbol."""
    return "".join(_symbols(index, layer) for index, layer in enumerate(spec.stack, start=1))


def _symbols(index: int, layer: Layer) -> str:
    mixer = type(layer.mixer)
    if mixer is LatentAttentionMixer:
        rule = f"{VERSION} has it (+), but turns its rope_head_dim channels, which here have no position"
        raise SpecError(f"layer {index}: mla - {rule}")
    symbol = mixer.entry.symbols.get("megatron")
    if symbol is None:
        raise SpecError(
            f"layer {index}: {mixer.kind} - the hybrid pattern of {VERSION} has no symbol for it; "
            f"it has them for {', '.join(_kinds_with_symbols())}"
        )
    return symbol + _feed_symbol(layer)


def _kinds_with_symbols() -> list[str]:
    """Kinds of mixers that the pattern has symbols for, in the order of SYMBOLS."""
    found = []
    for symbol in SYMBOLS:
        found += [kind.kind for kind in MIXERS if kind.entry.symbols.get("megatron") == symbol]
    return found


def _feed_symbol(layer: Layer) -> str:
    if layer.ffn is None:
        return ""
    return "E" if isinstance(layer.ffn, MoE) else "-"


def block_sizes(spec: ArchSpec) -> list[int]:
    """How many symbols each of our layers takes."""
    return [len(_symbols(index, layer)) for index, layer in enumerate(spec.stack, start=1)]


# ---------------------------------------------------------------- flags out


def to_megatron(spec: ArchSpec) -> dict[str, Any]:
    """Flags by name; True is a flag without a value. Raises SpecError with what no flag says."""
    attention = first_of(spec, AttentionMixer) or first_of(spec, SwaMixer)
    ssm, delta, moe = (first_of(spec, kind) for kind in (Mamba2Mixer, GatedDeltaNetMixer, MoE))
    flags = _model_flags(spec) | _feed_forward_flags(spec)
    if attention:
        flags |= _attention_flags(attention) | _window_flags(spec)
    if ssm:
        flags |= {
            "mamba-num-heads": ssm.n_heads,
            "mamba-head-dim": ssm.head_dim,
            "mamba-state-dim": ssm.d_state,
        }
        flags |= {"mamba-num-groups": ssm.n_groups}
    if delta:
        flags |= {
            "linear-num-key-heads": delta.n_k_heads,
            "linear-num-value-heads": delta.n_v_heads,
        }
        flags |= {
            "linear-key-head-dim": delta.k_head_dim,
            "linear-value-head-dim": delta.v_head_dim,
        }
        flags |= {"linear-conv-kernel-dim": delta.d_conv}
    if moe:
        flags |= _expert_flags(moe)
    return flags


def _model_flags(spec: ArchSpec) -> dict[str, Any]:
    pattern = megatron_pattern(spec)
    flags: dict[str, Any] = {
        "hybrid-layer-pattern": pattern,
        "num-layers": len(pattern),
        "hidden-size": spec.d_model,
    }
    flags |= {
        "vocab-size": spec.vocab_size,
        "normalization": "LayerNorm" if spec.norm == "layer" else "RMSNorm",
    }
    flags |= {"norm-epsilon": spec.norm_eps, "disable-bias-linear": True}
    if not spec.tie_embeddings:
        flags["untie-embeddings-and-output-weights"] = True
    if (
        spec.constants.get("norm_offset") == 1
    ):  # weights are stored minus 1, in Megatron those of Gated DeltaNet's norm too
        flags["apply-layernorm-1p"] = True
    return flags


def _feed_forward_flags(spec: ArchSpec) -> dict[str, Any]:
    ffn, moe = first_of(spec, SwiGLU) or first_of(spec, Mlp), first_of(spec, MoE)
    if not ffn and not moe:
        return {}
    gated = isinstance(ffn, SwiGLU) or bool(moe and moe.gated)
    return {
        "ffn-hidden-size": ffn.d_ff if ffn else moe.d_expert,
        "swiglu" if gated else "squared-relu": True,
    }


def _attention_flags(attention: AttentionMixer) -> dict[str, Any]:
    flags: dict[str, Any] = {
        "num-attention-heads": attention.n_heads,
        "group-query-attention": True,
    }
    flags |= {"num-query-groups": attention.n_kv_heads, "kv-channels": attention.head_dim}
    options = {
        "qk-layernorm": attention.qk_norm,
        "attention-output-gate": attention.output_gate,
        "add-qkv-bias": attention.qkv_bias,
    }
    flags |= {flag: True for flag, wanted in options.items() if wanted}
    if attention.sink_logits:
        flags["softmax-type"] = "learnable"
    if attention.softmax_scale is not None:
        flags["softmax-scale"] = attention.softmax_scale
    return flags | _rope_flags(attention)


def _rope_flags(attention: AttentionMixer) -> dict[str, Any]:
    if attention.position == "nope":
        return {"position-embedding-type": "none"}
    if attention.rope_theta != round(attention.rope_theta):
        raise SpecError(
            f"attention.rope_theta: {attention.rope_theta} - --rotary-base of {VERSION} is a whole number"
        )
    flags = {
        "position-embedding-type": "rope",
        "rotary-base": round(attention.rope_theta),
        "rotary-percent": attention.rope_fraction,
    }
    scaling = attention.rope_scaling
    return flags | (
        {"use-rope-scaling": True, "rope-scaling-factor": scaling.factor} if scaling else {}
    )


def _window_flags(spec: ArchSpec) -> dict[str, Any]:
    """The window, and which symbols of the pattern have it where not every attention layer does.
    --window-size counts the positions on either side of a query, itself left out; ours counts
    it."""
    swa, full = first_of(spec, SwaMixer), first_of(spec, AttentionMixer)
    if swa is None:
        return {}
    flags = {"window-size": f"{swa.window - 1},0"}
    if full is None:
        return flags
    if full.rope_scaling:
        raise SpecError(
            f"attention.rope_scaling: factor {full.rope_scaling.factor} - {VERSION} scales RoPE in windowed layers too"
        )
    marks = []
    for index, layer in enumerate(spec.stack, start=1):
        windowed = type(layer.mixer) is SwaMixer
        marks += [int(windowed and symbol == "*") for symbol in _symbols(index, layer)]
    return flags | {"window-attn-skip-freq": f"[{','.join(map(str, marks))}]"}


def _expert_flags(moe: MoE) -> dict[str, Any]:
    flags: dict[str, Any] = {
        "num-experts": moe.n_routed,
        "moe-router-topk": moe.top_k,
        "moe-ffn-hidden-size": moe.d_expert,
    }
    flags |= {"moe-router-score-function": moe.score, "moe-router-topk-scaling-factor": moe.scale}
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


def from_megatron(flags: dict[str, Any], blocks: list[int], chunk_size: int) -> dict[str, Any]:
    """The design of Megatron's flags; `blocks` says how many symbols each of our layers takes. The
    scan's chunk changes no result and has no flag."""
    get = flags.get
    design: dict[str, Any] = {
        "vocab_size": get("vocab-size"),
        "norm_eps": get("norm-epsilon"),
        "d_model": get("hidden-size"),
    }
    design |= {
        "tie_embeddings": not get("untie-embeddings-and-output-weights", False),
        "n_layers": len(blocks),
    }
    design["norm"] = "layer" if get("normalization") == "LayerNorm" else "rms"
    if "apply-layernorm-1p" in flags:
        design["constants"] = {"norm_offset": 1}
    pattern, feeds = _from_pattern(flags, blocks)
    if "kv-channels" in flags:
        design["attention"] = _from_attention(flags)
    if "S" in pattern:
        window = int(flags["window-size"].split(",")[0]) + 1
        design["swa"] = {"window": window, "sink": 0} | _theta(flags)
    if "mamba-num-heads" in flags:
        ssm = {
            "d_ssm": flags["mamba-num-heads"] * flags["mamba-head-dim"],
            "head_dim": get("mamba-head-dim"),
        }
        ssm |= {
            "d_state": get("mamba-state-dim"),
            "n_groups": get("mamba-num-groups"),
            "d_conv": D_CONV,
        }
        design["ssm"] = ssm | {"chunk_size": chunk_size}
    if "R" in pattern:
        delta = {
            "kind": "gated_deltanet",
            "n_k_heads": get("linear-num-key-heads"),
            "n_v_heads": get("linear-num-value-heads"),
        }
        delta |= {
            "k_head_dim": get("linear-key-head-dim"),
            "v_head_dim": get("linear-value-head-dim"),
        }
        design["mixers"] = {"R": delta | {"d_conv": get("linear-conv-kernel-dim")}}
    if "F" in feeds:
        design["ffn"] = {
            "kind": "swiglu" if "swiglu" in flags else "mlp",
            "d_ff": get("ffn-hidden-size"),
        }
    if "E" in feeds:
        design["ffns"] = {"E": _from_experts(flags)}
    return design | {"layers": {"pattern": pattern, "ffns": feeds}}


def _from_pattern(flags: dict[str, Any], blocks: list[int]) -> tuple[str, str]:
    """Our letters of the mixers and of the feed-forwards."""
    symbols, marks = flags["hybrid-layer-pattern"], flags.get("window-attn-skip-freq")
    windowed = (
        marks.strip("[]").split(",")
        if marks
        else ["1" if "window-size" in flags else "0"] * len(symbols)
    )
    pattern, feeds, start = "", "", 0
    for size in blocks:
        taken = symbols[start : start + size]
        attention = "S" if windowed[start] == "1" else "A"
        pattern += {"M": "M", "G": "R", "*": attention}.get(taken[0], "-")
        feeds += {"-": "F", "E": "E"}.get(taken[-1], "-")
        start += size
    return pattern, feeds


def _from_attention(flags: dict[str, Any]) -> dict[str, Any]:
    heads = {
        "n_heads": flags["num-attention-heads"],
        "n_kv_heads": flags["num-query-groups"],
        "head_dim": flags["kv-channels"],
    }
    heads |= {
        "qk_norm": "qk-layernorm" in flags,
        "output_gate": "attention-output-gate" in flags,
        "qkv_bias": "add-qkv-bias" in flags,
    }
    heads |= {"sink_logits": flags.get("softmax-type") == "learnable"}
    if "softmax-scale" in flags:
        heads["softmax_scale"] = flags["softmax-scale"]
    if flags["position-embedding-type"] == "none":
        return heads | {"position": "nope"}
    rope = _theta(flags) | {"rope_fraction": flags["rotary-percent"]}
    if "use-rope-scaling" in flags:
        rope["rope_scaling"] = {"factor": flags["rope-scaling-factor"]}
    return heads | rope


def _theta(flags: dict[str, Any]) -> dict[str, Any]:
    return {"rope_theta": float(flags["rotary-base"])} if "rotary-base" in flags else {}


def _from_experts(flags: dict[str, Any]) -> dict[str, Any]:
    gated, shared = "swiglu" in flags, flags.get("moe-shared-expert-intermediate-size")
    moe = {
        "kind": "moe",
        "n_routed": flags["num-experts"],
        "top_k": flags["moe-router-topk"],
        "d_expert": flags["moe-ffn-hidden-size"],
    }
    moe |= {
        "score": flags["moe-router-score-function"],
        "scale": flags["moe-router-topk-scaling-factor"],
        "gated": gated,
    }
    moe |= {"activation": "silu" if gated else "relu2", "norm_top_k": _normalises(flags)}
    moe |= {
        "n_shared": 1 if shared else 0,
        "d_shared": None if shared == moe["d_expert"] else shared,
    }
    return moe | {
        "shared_gate": "moe-shared-expert-gate" in flags,
        "d_latent": flags.get("moe-latent-size"),
    }


def _normalises(flags: dict[str, Any]) -> bool:
    """Whether the weights of the chosen experts sum to 1: with softmax unless it comes first, with
    sigmoid if there are several."""
    if flags["moe-router-score-function"] == "softmax":
        return "moe-router-pre-softmax" not in flags
    return bool(flags["moe-router-topk"] > 1)


# ---------------------------------------------------------------- the file


def megatron_text(spec: ArchSpec, flags: dict[str, Any]) -> str:
    """The flags, one a line, under a legend with both counts."""
    pattern = flags["hybrid-layer-pattern"]
    used = ", ".join(f"{symbol} {name}" for symbol, name in SYMBOLS.items() if symbol in pattern)
    head = [
        f"# {spec.name}, for {VERSION}:",
        f"# {spec.n_layers} blocks are {len(pattern)} symbols of Megatron's hybrid pattern, which counts each as a layer.",
        f"# {used}. Megatron-Core 0.16 and older: --hybrid-override-pattern, and",
        "# --spec megatron.core.models.mamba.mamba_layer_specs mamba_stack_spec",
        "--spec megatron.core.models.hybrid.hybrid_layer_specs hybrid_stack_spec",
    ]
    lines = [f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items()]
    return "\n".join([*head, *lines]) + "\n"


def first_of(spec: ArchSpec, kind: type[Any]) -> Any:
    """The first mixer or feed-forward of exactly this type, or None."""
    parts = (part for layer in spec.stack for part in (layer.mixer, layer.ffn))
    return next((part for part in parts if type(part) is kind), None)
