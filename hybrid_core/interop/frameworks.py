"""Designs for training frameworks: Megatron's flags, FLA's config, torchtitan's arguments. Each has a writer and a reader.

Field names as of Megatron-LM's hybrid models (`--hybrid-layer-pattern`), fla.models 0.6 and torchtitan 0.3's Llama 3. A framework's reader
knows its fixed choices (Megatron's convolution is 4 wide, FLA's heads share d_model), so what it reads back is what would run.
"""

from math import ceil
from typing import Any

from hybrid_core.spec import (
    ArchSpec,
    AttentionMixer,
    Layer,
    Mamba1Mixer,
    Mamba2Mixer,
    Mlp,
    MoE,
    NoMixer,
    SpecError,
    SwaMixer,
    SwiGLU,
)

# ---------------------------------------------------------------- Megatron

SYMBOLS = {"M": "Mamba-2", "*": "attention", "-": "feed-forward", "E": "mixture of experts"}
MEGATRON_D_CONV = 4


def megatron_pattern(spec: ArchSpec) -> str:
    """One symbol a residual step: a block of mixer and feed-forward is two. Raises SpecError for a layer without a symbol."""
    return "".join(_symbols(index, layer) for index, layer in enumerate(spec.stack, start=1))


def _symbols(index: int, layer: Layer) -> str:
    mixers: dict[type[Any], str] = {Mamba2Mixer: "M", AttentionMixer: "*", NoMixer: ""}
    if type(layer.mixer) not in mixers:
        known = " and ".join(kind.kind for kind, symbol in mixers.items() if symbol)
        raise SpecError(f"layer {index}: {layer.mixer.kind} - Megatron's hybrid pattern has no symbol for it; it has them for {known}")
    return mixers[type(layer.mixer)] + ("" if layer.ffn is None else "E" if isinstance(layer.ffn, MoE) else "-")


def to_megatron(spec: ArchSpec) -> dict[str, Any]:
    """Flags by name; True is a flag without a value."""
    pattern, attention, ssm, moe = megatron_pattern(spec), *(first_of(spec, kind) for kind in (AttentionMixer, Mamba2Mixer, MoE))
    ffn = first_of(spec, SwiGLU) or first_of(spec, Mlp)
    flags: dict[str, Any] = {"hybrid-layer-pattern": pattern, "num-layers": len(pattern), "hidden-size": spec.d_model}
    flags |= {"vocab-size": spec.vocab_size, "normalization": "RMSNorm", "norm-epsilon": spec.norm_eps, "disable-bias-linear": True}
    if not spec.tie_embeddings:
        flags["untie-embeddings-and-output-weights"] = True
    if ffn or moe:
        gated = isinstance(ffn, SwiGLU) or bool(moe and moe.gated)
        flags |= {"ffn-hidden-size": ffn.d_ff if ffn else moe.d_expert, "swiglu" if gated else "squared-relu": True}
    if attention:
        flags |= {"num-attention-heads": attention.n_heads, "group-query-attention": True, "num-query-groups": attention.n_kv_heads}
        flags |= {"kv-channels": attention.head_dim} | _megatron_rope(attention)
    if ssm:
        flags |= {"mamba-num-heads": ssm.n_heads, "mamba-head-dim": ssm.head_dim, "mamba-state-dim": ssm.d_state}
        flags |= {"mamba-num-groups": ssm.n_groups}
    if moe:
        flags |= {"num-experts": moe.n_routed, "moe-router-topk": moe.top_k, "moe-ffn-hidden-size": moe.d_expert}
        flags |= {"moe-router-score-function": moe.score, "moe-router-topk-scaling-factor": moe.scale}
        if moe.score == "sigmoid":
            flags |= {"moe-router-enable-expert-bias": True}
        elif not moe.norm_top_k:
            flags |= {"moe-router-pre-softmax": True}
        if moe.shared_width:
            flags |= {"moe-shared-expert-intermediate-size": moe.shared_width}
    return flags


def _megatron_rope(attention: AttentionMixer) -> dict[str, Any]:
    if attention.position == "nope":
        return {"position-embedding-type": "none"}
    flags = {"position-embedding-type": "rope", "rotary-base": attention.rope_theta, "rotary-percent": attention.rope_fraction}
    scaling = attention.rope_scaling
    return flags | ({"use-rope-scaling": True, "rope-scaling-factor": scaling.factor} if scaling else {})


def from_megatron(flags: dict[str, Any], blocks: list[int], chunk_size: int) -> dict[str, Any]:
    """The design of Megatron's flags; `blocks` says how many symbols each of our layers takes. The scan's chunk changes no result and
    has no flag."""
    get = flags.get
    design: dict[str, Any] = {"vocab_size": get("vocab-size"), "norm_eps": get("norm-epsilon"), "d_model": get("hidden-size")}
    design |= {"tie_embeddings": not get("untie-embeddings-and-output-weights", False), "n_layers": len(blocks)}
    symbols, pattern, feeds = iter(get("hybrid-layer-pattern", "")), "", ""
    for size in blocks:
        taken = "".join(next(symbols) for _ in range(size))
        pattern += {"M": "M", "*": "A"}.get(taken[0], "-")
        feeds += {"-": "F", "E": "E"}.get(taken[-1], "-")
    gated = "swiglu" in flags
    if "kv-channels" in flags:
        design["attention"] = {"n_heads": get("num-attention-heads"), "n_kv_heads": get("num-query-groups"), "head_dim": get("kv-channels")}
        design["attention"] |= {"position": "nope"} if get("position-embedding-type") == "none" else _from_megatron_rope(flags)
    if "mamba-num-heads" in flags:
        ssm = {"d_ssm": flags["mamba-num-heads"] * flags["mamba-head-dim"], "head_dim": get("mamba-head-dim")}
        design["ssm"] = ssm | {"d_state": get("mamba-state-dim"), "n_groups": get("mamba-num-groups"), "d_conv": MEGATRON_D_CONV}
        design["ssm"]["chunk_size"] = chunk_size
    if "F" in feeds:
        design["ffn"] = {"kind": "swiglu" if gated else "mlp", "d_ff": get("ffn-hidden-size")}
    if "E" in feeds:
        moe = {"kind": "moe", "n_routed": get("num-experts"), "top_k": get("moe-router-topk"), "d_expert": get("moe-ffn-hidden-size")}
        moe |= {"score": get("moe-router-score-function"), "scale": get("moe-router-topk-scaling-factor"), "gated": gated}
        moe |= {"activation": "silu" if gated else "relu2", "norm_top_k": _megatron_normalises(flags)}
        shared = get("moe-shared-expert-intermediate-size")
        moe |= {"n_shared": 1 if shared else 0, "d_shared": None if shared == moe["d_expert"] else shared}
        design["ffns"] = {"E": moe}
    return design | {"layers": {"pattern": pattern, "ffns": feeds}}


def _megatron_normalises(flags: dict[str, Any]) -> bool:
    """Whether the weights of the chosen experts sum to 1: with softmax unless it comes first, with sigmoid if there are several."""
    if flags["moe-router-score-function"] == "softmax":
        return "moe-router-pre-softmax" not in flags
    return bool(flags["moe-router-topk"] > 1)


def _from_megatron_rope(flags: dict[str, Any]) -> dict[str, Any]:
    rope = {"rope_theta": flags["rotary-base"], "rope_fraction": flags["rotary-percent"]}
    return rope | ({"rope_scaling": {"factor": flags["rope-scaling-factor"]}} if "use-rope-scaling" in flags else {})


def megatron_text(spec: ArchSpec, flags: dict[str, Any]) -> str:
    """The flags, one a line, under a legend with both counts."""
    pattern = flags["hybrid-layer-pattern"]
    used = ", ".join(f"{symbol} {name}" for symbol, name in SYMBOLS.items() if symbol in pattern)
    head = [
        f"# {spec.name}: {spec.n_layers} blocks are {len(pattern)} symbols of Megatron's hybrid pattern, which counts each as a layer.",
        f"# {used}. Megatron-Core 0.16 and older: --hybrid-override-pattern, and",
        "# --spec megatron.core.models.mamba.mamba_layer_specs mamba_stack_spec",
        "--spec megatron.core.models.hybrid.hybrid_layer_specs hybrid_stack_spec",
    ]
    lines = [f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items()]
    return "\n".join([*head, *lines]) + "\n"


# ---------------------------------------------------------------- FLA


def to_fla(spec: ArchSpec) -> dict[str, Any]:
    """A config of fla.models: transformer, mamba, mamba2 or samba, by the kinds of layer."""
    kinds = {type(layer.mixer) for layer in spec.stack}
    attention = first_of(spec, AttentionMixer) or first_of(spec, SwaMixer)
    config: dict[str, Any] = {"vocab_size": spec.vocab_size, "hidden_size": spec.d_model, "num_hidden_layers": spec.n_layers}
    config |= {"norm_eps": spec.norm_eps, "tie_word_embeddings": spec.tie_embeddings, "fuse_norm": True}
    if kinds <= {AttentionMixer, SwaMixer} and len(kinds) == 1:
        assert attention
        heads = {"num_heads": attention.n_heads, "num_kv_heads": attention.n_kv_heads, "qkv_bias": attention.qkv_bias}
        heads |= {"qk_norm": attention.qk_norm, "window_size": getattr(attention, "window", None), "rope_theta": attention.rope_theta}
        ffn = first_of(spec, SwiGLU)
        return config | {"model_type": "transformer"} | heads | ({"intermediate_size": ffn.d_ff} if ffn else {})
    if kinds == {Mamba2Mixer}:
        s = first_of(spec, Mamba2Mixer)
        config |= {"model_type": "mamba2", "head_dim": s.head_dim, "state_size": s.d_state, "conv_kernel": s.d_conv}
        config |= {"n_groups": s.n_groups, "chunk_size": s.chunk_size, "use_bias": s.in_bias, "use_conv_bias": s.conv_bias}
        return config | {"expand": s.d_ssm // spec.d_model, "rmsnorm": s.gated_norm, "norm_before_gate": s.norm_first}
    if kinds <= {Mamba1Mixer, AttentionMixer, SwaMixer} and Mamba1Mixer in kinds:
        s, ffn = first_of(spec, Mamba1Mixer), first_of(spec, SwiGLU)
        config |= {"state_size": s.d_state, "conv_kernel": s.d_conv, "time_step_rank": s.dt_rank, "expand": s.d_ssm // spec.d_model}
        config |= {"use_bias": s.proj_bias, "use_conv_bias": s.conv_bias}
        if kinds == {Mamba1Mixer} and ffn is None:
            return config | {"model_type": "mamba"}
        attn = [_fla_attention(spec, kind) for kind in (AttentionMixer, SwaMixer) if kind in kinds]
        config |= {"model_type": "samba", "attn": attn[0] if len(attn) == 1 else attn}
        return config | ({"hidden_ratio": 1.5 * ffn.d_ff / spec.d_model} if ffn else {})
    named = sorted({layer.mixer.kind for layer in spec.stack})
    raise SpecError(f"{' beside '.join(named)} - fla.models has no class with these layers")


def _fla_attention(spec: ArchSpec, kind: type[Any]) -> dict[str, Any]:
    mixer = first_of(spec, kind)
    found = {"layers": [i for i, layer in enumerate(spec.stack) if type(layer.mixer) is kind], "num_heads": mixer.n_heads}
    found |= {"num_kv_heads": mixer.n_kv_heads, "qkv_bias": mixer.qkv_bias, "rope_theta": mixer.rope_theta}
    return found | {"window_size": getattr(mixer, "window", None)}


def from_fla(config: dict[str, Any]) -> dict[str, Any]:
    """The design of a config of fla.models."""
    get, d, n = config.get, config["hidden_size"], config["num_hidden_layers"]
    design: dict[str, Any] = {"vocab_size": get("vocab_size"), "norm_eps": get("norm_eps"), "d_model": d, "n_layers": n}
    design |= {"tie_embeddings": get("tie_word_embeddings")}
    if config["model_type"] == "transformer":
        mixers = {"0": _from_fla_attention(config, d)}
        ffn = {"kind": "swiglu", "d_ff": get("intermediate_size") or _fla_width(d, 4)}
        return design | {"mixers": mixers, "layers": {"pattern": "0" * n}, "ffn": ffn}
    ssm = {"d_ssm": get("expand", 2) * d, "d_state": get("state_size"), "d_conv": get("conv_kernel"), "conv_bias": get("use_conv_bias")}
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
    attn: list[dict[str, Any]] = config["attn"] if isinstance(config["attn"], list) else [config["attn"]]
    letters = {layer: str(i) for i, spec in enumerate(attn) for layer in spec["layers"]}
    mixers = {str(i): _from_fla_attention(spec, d) for i, spec in enumerate(attn)}
    ffn = {"kind": "swiglu", "d_ff": _fla_width(d, get("hidden_ratio", 4))}
    return design | {"ssm": ssm, "mixers": mixers, "ffn": ffn, "layers": {"pattern": "".join(letters.get(i, "M") for i in range(n))}}


def _from_fla_attention(attn: dict[str, Any], d_model: int) -> dict[str, Any]:
    """FLA's heads are d_model / num_heads wide and always turned."""
    window = {"kind": "swa", "window": attn["window_size"], "sink": 0} if attn["window_size"] else {"kind": "attention"}
    heads = {"n_heads": attn["num_heads"], "n_kv_heads": attn["num_kv_heads"], "head_dim": d_model // attn["num_heads"]}
    return window | heads | {"rope_theta": attn["rope_theta"], "qkv_bias": attn["qkv_bias"], "qk_norm": attn.get("qk_norm", False)}


def _fla_width(d_model: int, ratio: float) -> int:
    """Width of fla's gated feed-forward: two thirds of ratio * d_model, up to a multiple of 256."""
    return ceil(int(d_model * ratio * 2 / 3) / 256) * 256


# ---------------------------------------------------------------- torchtitan


def to_torchtitan(spec: ArchSpec) -> dict[str, Any]:
    """What a Llama 3 of torchtitan 0.3 is told."""
    odd = next((layer.mixer.kind for layer in spec.stack if type(layer.mixer) is not AttentionMixer), None)
    if odd:
        raise SpecError(f"{odd} - torchtitan's models are Transformers without windows")
    attention, ffn = first_of(spec, AttentionMixer), first_of(spec, SwiGLU)
    if ffn is None:
        raise SpecError("ffn: not a dense gated one in every layer - torchtitan's Llama 3 has no other")
    found: dict[str, Any] = {"dim": spec.d_model, "n_layers": spec.n_layers, "vocab_size": spec.vocab_size, "tied": spec.tie_embeddings}
    found |= {"n_heads": attention.n_heads, "n_kv_heads": attention.n_kv_heads, "head_dim": attention.head_dim}
    found |= {"hidden_dim": ffn.d_ff, "norm_eps": spec.norm_eps, "qk_norm": attention.qk_norm}
    rope: dict[str, Any] = {"theta": attention.rope_theta}
    if s := attention.rope_scaling:
        rope |= {"scaling": "llama", "scaling_factor": s.factor, "original_max_position_embeddings": s.original_context_len}
        rope |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
    return found | {"rope": rope}


def from_torchtitan(told: dict[str, Any]) -> dict[str, Any]:
    """The design of such a Llama 3."""
    rope = dict(told["rope"])
    attention = {key: told[key] for key in ("n_heads", "n_kv_heads", "head_dim", "qk_norm")} | {"rope_theta": rope.pop("theta")}
    if rope.pop("scaling", None):
        names = {"scaling_factor": "factor", "original_max_position_embeddings": "original_context_len"}
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


def first_of(spec: ArchSpec, kind: type[Any]) -> Any:
    """The first mixer or feed-forward of exactly this type, or None."""
    parts = (part for layer in spec.stack for part in (layer.mixer, layer.ffn))
    return next((part for part in parts if type(part) is kind), None)
