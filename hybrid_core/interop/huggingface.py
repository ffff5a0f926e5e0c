"""Published configs in: a config.json becomes an ArchSpec, without torch. The tensors that belong to it: weights.py.

A family is one function, found by the config's own fields, never by the model's name. It takes every field that changes what
transformers (5.23), or the published code of a model that transformers has no class for, computes for that family, with the default
that it has there; whatever is left must be known to change nothing. So a field that nobody thought of is refused by name instead of
giving a model that is almost right. Fields that change values but no cost are kept as `constants`; built.py says whether our modules
compute such a design or only its costs are known.
"""

import json
from collections.abc import Callable, Mapping
from math import ceil, inf
from pathlib import Path
from typing import Any

from hybrid_core.interop.fields import Fields, at, every
from hybrid_core.spec import ArchSpec, SpecError, short
from hybrid_core.yaml_io import MAX_BYTES, MAX_DEPTH, TextError, read_text, too_long

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu2": "relu2",
}

NOPE: dict[str, Any] = {"position": "nope"}

# ---------------------------------------------------------------- what families share


def _model(c: Fields, eps_key: str, eps: float = 1e-5, tied: bool = False) -> dict[str, Any]:
    """What stands outside the layers."""
    return {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": c.flag("tie_word_embeddings", tied),
        "norm_eps": c.number(eps_key, eps),
        "d_model": c.count("hidden_size"),
        "n_layers": c.count("num_hidden_layers"),
    }


def _silu(c: Fields, key: str = "hidden_act") -> None:
    """Refuse another activation of Mamba's convolution and gate."""
    c.must(key, "silu", "swish")


def _attention(c: Fields, n_kv_heads: int | None = None, rope_fraction: float | None = 1.0, head_dim: str = "head_dim") -> dict[str, Any]:
    """Without a `rope_fraction`, no position encoding."""
    biased = c.flag("attention_bias")
    n_heads = c.count("num_attention_heads")
    section = {
        "n_heads": n_heads,
        "n_kv_heads": c.count("num_key_value_heads", n_kv_heads or n_heads),
        "head_dim": c.count(head_dim, c.count("hidden_size") // n_heads),
        "qkv_bias": biased,
        "out_bias": biased,
    }
    return section | (NOPE if rope_fraction is None else _rope(c, rope_fraction))


def _rope(c: Fields, fraction: float, theta: float = 10_000.0) -> dict[str, Any]:
    """transformers 5 writes all of it into `rope_parameters`; before, theta stood outside and `rope_scaling` held the rest."""
    c.must("partial_rotary_factor", fraction)
    new, old = c.section("rope_parameters"), c.section("rope_scaling")
    rope = old or new  # as transformers prefers
    section: dict[str, Any] = {
        "rope_theta": rope.number("rope_theta", c.number("rope_theta", theta)),
        "rope_fraction": rope.number("partial_rotary_factor", fraction),
    }
    elsewhere = ("rope_theta", "partial_rotary_factor")
    kind = rope.take("rope_type", None) or rope.take("type", None) or "default"
    rope.ignore("type rope_type")
    if kind == "llama3":
        section["rope_scaling"] = {
            "factor": rope.number("factor", 8.0),
            "low_freq_factor": rope.number("low_freq_factor", 1.0),
            "high_freq_factor": rope.number("high_freq_factor", 4.0),
            "original_context_len": rope.count("original_max_position_embeddings"),
        }
    elif kind in ("linear", "dynamic", "yarn", "longrope", "mrope", "ntk"):
        kept = c.take("rope_scaling", None) or c.take("rope_parameters")
        c.constants["rope_scaling"] = {key: value for key, value in kept.items() if key not in elsewhere}
        return section
    elif kind != "default":
        raise rope.refuse("rope_type" if "rope_type" in rope else "type", "unknown way to scale RoPE")
    rope.close()
    return section


def _gated(c: Fields, act: str = "hidden_act", width: str = "intermediate_size", bias: str = "mlp_bias") -> dict[str, Any]:
    section = {"kind": "swiglu", "d_ff": c.count(width), "activation": c.word(act, ACTIVATIONS, "silu")}
    return section | {"bias": c.flag(bias)}


def _unlimited_dt(c: Fields) -> None:
    """Refuse a clamp of dt. transformers 5 writes infinity as a mapping."""
    if c.take("time_step_limit", None) not in (None, (0.0, inf), [0.0, inf], [0.0, {"__float__": "Infinity"}]):
        raise c.refuse("time_step_limit", "dt must be unlimited: [0, Infinity]")


def _mamba1(c: Fields) -> dict[str, Any]:
    """The Mamba-1 of Jamba, Zamba, Hymba and Phi-4-mini-flash."""
    d_model = c.count("hidden_size")
    rank = c.take("mamba_dt_rank", "auto")
    return {
        "kind": "mamba1",
        "d_ssm": c.count("mamba_expand", 2) * d_model,
        "d_state": c.count("mamba_d_state", 16),
        "d_conv": c.count("mamba_d_conv", 4),
        "dt_rank": ceil(d_model / 16) if rank == "auto" else c.count("mamba_dt_rank", ceil(d_model / 16)),
        "proj_bias": c.flag("mamba_proj_bias"),
        "conv_bias": c.flag("mamba_conv_bias", True),
    }


def _bamba_ssm(c: Fields, d_model: int, d_state: int | None = None) -> dict[str, Any]:
    """The Mamba-2 of Bamba and Granite."""
    _unlimited_dt(c)
    _silu(c)
    n_heads, d_ssm = c.count("mamba_n_heads", 128), c.count("mamba_expand", 2) * d_model
    if d_ssm % n_heads:
        raise c.refuse("mamba_n_heads", f"must divide mamba_expand * hidden_size ({d_ssm})")
    c.must("mamba_d_head", "auto", d_ssm // n_heads)
    return {
        "d_ssm": d_ssm,
        "head_dim": d_ssm // n_heads,
        "d_state": c.count("mamba_d_state", 256),
        "d_conv": c.count("mamba_d_conv", 4),
        "n_groups": c.count("mamba_n_groups", 1),
        "chunk_size": c.count("mamba_chunk_size", 256),
        "in_bias": c.flag("mamba_proj_bias"),
        "out_bias": c.flag("mamba_proj_bias"),
        "conv_bias": c.flag("mamba_conv_bias", True),
    }


# ---------------------------------------------------------------- Transformers


def _llama(c: Fields) -> dict[str, Any]:
    return _model(c, "rms_norm_eps", 1e-6) | {"layers": {"strategy": "transformer"}, "attention": _attention(c), "ffn": _gated(c)}


def _mistral(c: Fields) -> dict[str, Any]:
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    design = _model(c, "rms_norm_eps", 1e-6) | {"attention": _attention(c, n_kv_heads=8), "ffn": _gated(c)}
    if c.take("sliding_window", 4096) is None:
        return design | {"layers": {"strategy": "transformer"}}
    if "rope_scaling" in design["attention"]:
        raise c.refuse("sliding_window", "must be null where RoPE is scaled: windowed layers have no scaling here")
    swa = {"window": c.count("sliding_window", 4096), "sink": 0, "rope_theta": design["attention"]["rope_theta"]}
    return design | {"layers": {"strategy": "swa", "ratio": "0:1"}, "swa": swa}


WINDOWED = {"sliding_attention": "S", "full_attention": "A", "attention": "A"}


def _gemma3(c: Fields) -> dict[str, Any]:
    """Two RoPEs; norms behind mixer and feed-forward too; embeddings times the root of their width."""
    design = _model(c, "rms_norm_eps", 1e-6, tied=True)
    new = c.section("rope_parameters")
    thetas = {"full_attention": c.number("rope_theta", 1e6), "sliding_attention": c.number("rope_local_base_freq", 1e4)}
    for layers, theta in tuple(thetas.items()):
        own = new.section(layers)
        thetas[layers] = own.number("rope_theta", theta)
        own.constant("rope_type", "default")
        own.constant("factor")
        own.close()
        c.constants |= own.constants
    new.close()
    c.constant("rope_scaling")
    biased = c.flag("attention_bias")
    n_heads, n = c.count("num_attention_heads", 8), design["n_layers"]
    attention = {
        "n_heads": n_heads,
        "n_kv_heads": c.count("num_key_value_heads", 4),
        "head_dim": c.count("head_dim", 256),
        "rope_theta": thetas["full_attention"],
        "qkv_bias": biased,
        "out_bias": biased,
        "qk_norm": True,
    }
    scale = c.number("query_pre_attn_scalar", 256) ** -0.5
    if scale != attention["head_dim"] ** -0.5:
        attention["softmax_scale"] = scale
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        c.constant(key)
    c.must("use_bidirectional_attention", False, None)
    period = c.count("sliding_window_pattern", c.count("_sliding_window_pattern", 6))
    pattern = c.kinds("layer_types", n, WINDOWED) or every(n, period, period - 1, "A", "S")
    c.constants |= {"norm_offset": 1, "embedding_multiplier": design["d_model"] ** 0.5}
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "swa": {"window": c.count("sliding_window", 4096), "sink": 0, "rope_theta": thetas["sliding_attention"]},
        "ffn": _gated(c, act="hidden_activation") | {"activation": c.word("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")},
        "post_norm": True,
    }


def _gpt_oss(c: Fields) -> dict[str, Any]:
    """Learnt sinks, biases everywhere, and a clamped gate in the experts."""
    design = _model(c, "rms_norm_eps")
    n = design["n_layers"]
    attention = _attention(c) | {"sink_logits": True}
    attention |= dict.fromkeys(("qkv_bias", "out_bias"), c.flag("attention_bias", True))
    pattern = c.kinds("layer_types", n, WINDOWED) or every(n, 2, 1, "A", "S")
    _silu(c)
    for key in ("swiglu_limit", "swiglu_alpha", "quantization_config"):
        c.constant(key)
    top_k = c.count("num_experts_per_tok", 4)
    c.must("experts_per_token", top_k)
    c.ignore("initial_context_length")
    ffn = {
        "kind": "moe",
        "n_routed": c.count("num_local_experts", 128),
        "top_k": top_k,
        "n_shared": 0,
        "d_expert": c.count("intermediate_size"),
        "bias": True,
        "score": "softmax",
        "norm_top_k": True,
        "activation": "clamped_swiglu",
    }
    swa = {"window": c.count("sliding_window", 128), "sink": 0, "rope_theta": attention["rope_theta"]}
    return design | {"layers": {"pattern": pattern}, "attention": attention, "swa": swa, "ffn": ffn}


def _qwen2_vl(c: Fields) -> dict[str, Any]:
    """The language model, with Vamba's layers on the vision tokens where the config has them: their parameters count, their state and
    work belong to the video, not to the text."""
    design = _model(c, "rms_norm_eps", 1e-6)
    d, attention = design["d_model"], _attention(c, rope_fraction=1.0) | {"qkv_bias": True, "out_bias": False}
    c.must("use_sliding_window", False)
    c.ignore("sliding_window max_window_layers")
    design |= {"attention": attention, "ffn": _gated(c), "outside_params": _qwen2_vision(c, d)}
    v = c.section("vision_mamba_mixer_config")
    if not v.flag("enable"):
        return design | {"layers": {"strategy": "transformer"}}
    v.must("hidden_dim", d)
    v.must("bias", False)
    v.ignore("chunk_size norm_before_gate")
    d_ssm, d_state, groups = v.count("expand", 2) * d, v.count("d_state", 128), v.count("ngroups", 1)
    heads, channels = d_ssm // v.count("headdim", 64), d_ssm + 2 * groups * d_state
    d_q, d_kv = attention["n_heads"] * attention["head_dim"], 2 * attention["n_kv_heads"] * attention["head_dim"]
    on_text = 2 * d * d_q
    on_video = d * d_kv + d_q + d_kv + d * (d_ssm + channels + heads) + d_ssm * d
    on_video += channels * (v.count("d_conv", 4) + v.flag("conv_bias", True)) + 3 * heads + d_ssm * v.flag("rmsnorm", True) + d
    v.close()
    vision = {"kind": "declared", "name": "cross-attention to video tokens, and Mamba-2 on them", "matrix_params": on_text}
    branches = [{"kind": "attention"} | attention, vision | {"other_params": on_video}]
    return design | {"mixers": {"V": {"kind": "side_by_side", "branches": branches}}, "layers": {"pattern": "V" * design["n_layers"]}}


def _qwen2_vision(c: Fields, d_model: int) -> int:
    """Parameters of Qwen2-VL's vision tower and its merger into the language model (patches of 2 x 14 x 14 x 3 pixels)."""
    v = c.section("vision_config")
    width, depth, patch = v.count("embed_dim", 1280), v.count("depth", 32), v.count("patch_size", 14)
    inner, merged = v.count("mlp_ratio", 4) * width, v.count("spatial_merge_size", 2) ** 2 * width
    v.must("hidden_size", d_model)
    v.ignore("hidden_act in_chans in_channels num_heads spatial_patch_size model_type")
    block = 4 * width + (3 * width + 3) * width + (width + 1) * width + (width + 1) * inner + (inner + 1) * width
    frames = v.count("temporal_patch_size", 2)
    v.close()
    c.ignore("image_token_id video_token_id vision_start_token_id vision_end_token_id vision_token_id")
    return 3 * frames * patch**2 * width + depth * block + 2 * width + (merged + 1) * merged + (merged + 1) * d_model


# ---------------------------------------------------------------- state-space models


def _mamba(c: Fields) -> dict[str, Any]:
    _silu(c)
    d_model = c.count("hidden_size")
    auto_rank = ceil(d_model / 16)
    c.count("expand", 2)  # intermediate_size wins over it
    ssm = {
        "kind": "mamba1",
        "d_ssm": c.count("intermediate_size", d_model * c.count("expand", 2)),
        "d_state": c.count("state_size", 16),
        "d_conv": c.count("conv_kernel", 4),
        "dt_rank": auto_rank if c.take("time_step_rank", "auto") == "auto" else c.count("time_step_rank"),
        "proj_bias": c.flag("use_bias"),
        "conv_bias": c.flag("use_conv_bias", True),
    }
    return _model(c, "layer_norm_epsilon", tied=True) | {"layers": {"strategy": "mamba"}, "ssm": ssm}


def _falcon_mamba(c: Fields) -> dict[str, Any]:
    """Mamba with norms of dt, B and C that have no weights."""
    design = _mamba(c)
    c.ignore("use_falcon_mambapy")
    eps = c.number("mixer_rms_eps", 1e-6)
    return design | {"ssm": design["ssm"] | {"dt_bc_norm": True, "dt_bc_weight": False, "dt_bc_eps": eps}}


def _mamba2(c: Fields) -> dict[str, Any]:
    _silu(c)
    _unlimited_dt(c)
    biased = c.flag("use_bias")
    ssm = {
        "d_ssm": c.count("num_heads") * c.count("head_dim"),
        "head_dim": c.count("head_dim"),
        "d_state": c.count("state_size"),
        "d_conv": c.count("conv_kernel", 4),
        "n_groups": c.count("n_groups"),
        "chunk_size": c.count("chunk_size", 256),
        "in_bias": biased,
        "out_bias": biased,
        "conv_bias": c.flag("use_conv_bias", True),
    }
    c.must("expand", ssm["d_ssm"] / c.count("hidden_size"))
    c.must("intermediate_size", ssm["d_ssm"])
    c.must("rms_norm", True)
    return _model(c, "layer_norm_epsilon") | {"layers": {"strategy": "mamba"}, "ssm": ssm}


def _mamba_ssm(c: Fields) -> dict[str, Any]:
    """mamba_ssm's own config: the vocabulary is padded, and attention layers stand where it says."""
    d, n, multiple = c.count("d_model"), c.count("n_layer"), c.count("pad_vocab_size_multiple", 8)
    s, a = c.section("ssm_cfg"), c.section("attn_cfg")
    if s.word("layer", {"Mamba1": "mamba1", "Mamba2": "mamba2"}, "Mamba1") == "mamba1":
        rank = s.take("dt_rank", "auto")
        ssm = {"kind": "mamba1", "d_state": s.count("d_state", 16), "dt_rank": ceil(d / 16) if rank == "auto" else s.count("dt_rank")}
        ssm |= {"proj_bias": s.flag("bias")}
    else:
        ssm = {"d_state": s.count("d_state", 128), "head_dim": s.count("headdim", 64), "n_groups": s.count("ngroups", 1)}
        ssm |= {"chunk_size": s.count("chunk_size", 256), "gated_norm": s.flag("rmsnorm", True), "norm_first": s.flag("norm_before_gate")}
        ssm |= {"in_bias": s.flag("bias"), "out_bias": s.flag("bias")}
    ssm |= {"d_ssm": s.count("expand", 2) * d, "d_conv": s.count("d_conv", 4), "conv_bias": s.flag("conv_bias", True)}
    s.close()
    design = {
        "vocab_size": ceil(c.count("vocab_size") / multiple) * multiple,
        "tie_embeddings": c.flag("tie_embeddings", True),
        "d_model": d,
        "n_layers": n,
        "norm": "rms" if c.flag("rms_norm", True) else "layer",
        "ssm": ssm,
    }
    c.ignore("fused_add_norm")
    d_ff = c.count("d_intermediate", 0, least=0)
    if d_ff:
        design["ffn"] = {"kind": "swiglu", "d_ff": ceil(d_ff / 128) * 128}
    attention_at = c.indices("attn_layer_idx", n)
    if attention_at:
        heads = a.count("num_heads")
        a.must("causal", True)
        a.must("d_conv", 0)
        head_dim = a.count("head_dim", d // heads)
        rotated = a.count("rotary_emb_dim", 0, least=0)
        section = {"n_heads": heads, "n_kv_heads": a.count("num_heads_kv", heads), "head_dim": head_dim}
        section |= {"qkv_bias": a.flag("qkv_proj_bias", True), "out_bias": a.flag("out_proj_bias", True)}
        theta = a.number("rotary_emb_base", 10_000.0)
        design["attention"] = section | ({"rope_theta": theta, "rope_fraction": rotated / head_dim} if rotated else NOPE)
        a.close()
    return design | {"layers": {"pattern": at(n, attention_at, "A", "M")}}


# ---------------------------------------------------------------- hybrids of attention and Mamba


def _bamba(c: Fields) -> dict[str, Any]:
    design = _model(c, "rms_norm_eps") | {"attention": _attention(c, n_kv_heads=8, rope_fraction=0.5), "ffn": _gated(c)}
    ssm, attention = _bamba_ssm(c, design["d_model"]), design["attention"]
    c.must("attn_rotary_emb", round(attention["head_dim"] * attention["rope_fraction"]))
    n = design["n_layers"]
    layer_types = c.kinds("layer_types", n, HYBRID)
    pattern = at(n, c.indices("attn_layer_indices", n), "A", "M")
    if layer_types and "attn_layer_indices" in c and layer_types != pattern:
        raise c.refuse("layer_types", "contradicts attn_layer_indices")
    return design | {"layers": {"pattern": layer_types or pattern}, "ssm": ssm}


HYBRID = {"mamba": "M", "linear_attention": "M", "attention": "A", "full_attention": "A", "hybrid": "Z"}


def _jamba(c: Fields) -> dict[str, Any]:
    """Mamba-1 with norms of dt, B and C; attention and experts at their own periods; no position encoding."""
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    _silu(c)
    design = _model(c, "rms_norm_eps", 1e-6) | {"attention": _attention(c, n_kv_heads=8, rope_fraction=None)}
    n, experts = design["n_layers"], c.count("num_experts", 16)
    c.must("sliding_window", None)
    pattern = every(n, c.count("attn_layer_period", 8), c.count("attn_layer_offset", 4, least=0), "A", "M")
    for key in ("layer_types", "layers_block_type"):
        if c.kinds(key, n, HYBRID) not in (None, pattern):
            raise c.refuse(key, "contradicts attn_layer_period and attn_layer_offset")
    c.ignore("layers_num_experts")
    feeds = every(n, c.count("expert_layer_period", 2), c.count("expert_layer_offset", 1, least=0), "E", "F")
    moe = {"kind": "moe", "n_routed": experts, "top_k": c.count("num_experts_per_tok", 2), "n_shared": 0, "score": "softmax"}
    layers = {"pattern": pattern} | ({"ffns": feeds} if experts > 1 else {})
    ffns = {"E": moe | {"d_expert": c.count("intermediate_size")}} if experts > 1 else {}
    return design | {"layers": layers, "ssm": _mamba1(c) | {"dt_bc_norm": True}, "ffn": _gated(c), "ffns": ffns}


def _shared_blocks(c: Fields, design: dict[str, Any], pattern: str, ssm: dict[str, Any], ffn: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Zamba's layers: hybrid ones take the shared blocks in turn; the others are the SSM alone."""
    d, n_blocks = design["d_model"], own.pop("n_blocks")
    heads = c.count("num_attention_heads")
    d_attention = c.count("attention_hidden_size", 2 * d)
    head_dim = c.count("attention_head_dim", 2 * d // heads)
    if d_attention != 2 * d or head_dim * heads != 2 * d:
        raise c.refuse("num_attention_heads", f"must make heads that add up to twice hidden_size ({2 * d})")
    attention = {"kind": "attention", "n_heads": heads, "n_kv_heads": c.count("num_key_value_heads", heads), "head_dim": head_dim}
    attention |= {"d_input": 2 * d, "softmax_scale": (head_dim / 2) ** -0.5} | own.pop("rope")
    kind = {"kind": "shared_block", "attention": attention, "ffn": ffn, "ssm": {"kind": "mamba2"} | ssm} | own
    letters, taken = "", 0
    for letter in pattern:
        letters += letter if letter == "M" else str(taken % n_blocks)
        taken += letter == "Z"
    mixers = {str(block): kind | {"block": block} for block in range(min(n_blocks, taken))}
    return design | {"layers": {"pattern": letters}, "ssm": ssm, "mixers": mixers}


def _zamba(c: Fields) -> dict[str, Any]:
    c.must("tie_word_embeddings", True)  # transformers ties the blocks together with the embeddings, or neither
    design, ssm = _model(c, "rms_norm_eps", tied=True), _mamba1(c)
    _silu(c, "hidden_mamba_act")
    c.must("sliding_window", None)
    c.ignore("rope_theta num_query_groups")
    n = design["n_layers"]
    period, offset = c.count("attn_layer_period", 6), c.count("attn_layer_offset", 4, least=0)
    default = ("MMZ" + every(max(n - 3, 0), period, offset, "Z", "M"))[:n]
    pattern = c.kinds("layers_block_type", n, HYBRID) or c.kinds("layer_types", n, HYBRID) or default
    ffn = _gated(c) | {"activation": c.word("hidden_act", ACTIVATIONS, "gelu")}
    ssm |= {"n_heads": c.count("n_mamba_heads", 2)}
    return _shared_blocks(c, design, pattern, ssm, ffn, n_blocks=1, rope=NOPE)


ZAMBA2_GATED_EPS = 1e-5  # of Mamba-2's norm, whatever the config's epsilon is


def _zamba2(c: Fields) -> dict[str, Any]:
    c.must("tie_word_embeddings", True)
    design = _model(c, "rms_norm_eps", tied=True)
    n, d = design["n_layers"], design["d_model"]
    heads, d_ssm, biased = c.count("n_mamba_heads", 8), c.count("mamba_expand", 2) * d, c.flag("add_bias_linear")
    if d_ssm % heads:
        raise c.refuse("n_mamba_heads", f"must divide mamba_expand * hidden_size ({d_ssm})")
    ssm = {
        "d_ssm": d_ssm,
        "head_dim": d_ssm // heads,
        "d_state": c.count("mamba_d_state", 64),
        "d_conv": c.count("mamba_d_conv", 4),
        "n_groups": c.count("mamba_ngroups", 1),
        "chunk_size": c.count("chunk_size", 256),
        "in_bias": biased,
        "out_bias": biased,
        "dt_min": c.number("time_step_min", 0.001),
    }
    c.must("use_conv_bias", True)  # transformers has the bias, whatever the field says
    if design["norm_eps"] != ZAMBA2_GATED_EPS:
        c.constants["gated_norm_eps"] = ZAMBA2_GATED_EPS
    hybrid = c.indices("hybrid_layer_ids", n)
    pattern = c.kinds("layers_block_type", n, HYBRID) or c.kinds("layer_types", n, HYBRID) or at(n, hybrid, "Z", "M")
    if hybrid and pattern != at(n, hybrid, "Z", "M"):
        raise c.refuse("hybrid_layer_ids", "contradicts layers_block_type")
    width = c.count("intermediate_size", 4 * d)
    c.must("ffn_hidden_size", width, None)
    c.ignore("mamba_headdim kv_channels num_query_groups use_mem_eff_path state_size ft_lora lora_rank layers mamba_num_heads")
    c.constant("use_long_context", False)
    ffn = {"kind": "swiglu", "d_ff": width, "activation": c.word("hidden_act", ACTIVATIONS, "gelu"), "bias": biased}
    rope = _rope(c, 1.0) if c.flag("use_mem_rope") else NOPE
    if rope == NOPE:
        c.ignore("rope_theta rope_scaling rope_parameters")
    adapters = {"adapter_rank": c.count("adapter_rank", 128, least=0), "attention_adapters": c.flag("use_shared_attention_adapter")}
    heads = c.count("num_attention_heads")
    if adapters["attention_adapters"] and c.count("num_key_value_heads", heads) != heads:  # theirs are as wide as all heads
        raise c.refuse("num_key_value_heads", f"must be num_attention_heads ({heads}) with use_shared_attention_adapter")
    return _shared_blocks(c, design, pattern, ssm, ffn, n_blocks=c.count("num_mem_blocks", 1), rope=rope, **adapters)


FALCON_MULTIPLIERS = """
    lm_head_multiplier embedding_multiplier key_multiplier attention_out_multiplier attention_in_multiplier ssm_in_multiplier
    ssm_out_multiplier
"""


def _falcon_h1(c: Fields) -> dict[str, Any]:
    """Attention and Mamba-2 side by side in every layer: the paper's intra-hybrid block without norms, their outputs added."""
    _silu(c)
    _unlimited_dt(c)
    design = _model(c, "rms_norm_eps") | {"attention": _attention(c, n_kv_heads=8), "ffn": _gated(c)}
    a, n, d = design["attention"], design["n_layers"], design["d_model"]
    d_ssm, heads = c.count("mamba_d_ssm", c.count("mamba_expand", 2) * d), c.count("mamba_n_heads", 128)
    head_dim = d_ssm // heads if c.take("mamba_d_head", 64) == "auto" else c.count("mamba_d_head", 64)
    if head_dim * heads != d_ssm:
        raise c.refuse("mamba_d_ssm", f"must be mamba_n_heads * mamba_d_head ({head_dim * heads})")
    normed = c.flag("mamba_rms_norm")
    first = c.flag("mamba_norm_before_gate", True)
    ssm = {
        "d_ssm": d_ssm,
        "head_dim": head_dim,
        "d_state": c.count("mamba_d_state", 256),
        "d_conv": c.count("mamba_d_conv", 4),
        "n_groups": c.count("mamba_n_groups", 1),
        "chunk_size": c.count("mamba_chunk_size", 256),
        "norm_first": first and normed,
        "conv_bias": c.flag("mamba_conv_bias", True),
        "in_bias": c.flag("mamba_proj_bias"),
        "out_bias": c.flag("projectors_bias"),
    }
    intra = {"n_heads": a["n_heads"], "n_kv_heads": a["n_kv_heads"], "qk_head_dim": a["head_dim"], "v_head_dim": a["head_dim"]}
    intra |= {"d_ssm": d_ssm, "norm": "none", "scalar": "none", "fusion": "add", "value": "separate", "out": "separate"}
    for key in FALCON_MULTIPLIERS.split():
        c.constant(key, 1.0)
    c.constant("mlp_multipliers", [1.0, 1.0])
    c.constant("ssm_multipliers", [1.0] * 5)
    c.ignore("mamba_use_mlp attn_layer_indices layer_types layers_block_type")
    return design | {"layers": {"pattern": "H" * n}, "ssm": ssm, "intra": intra | {"ssm_norm": normed}}


NEMOTRON = {"M": "M", "*": "A", "-": "F", "E": "E"}
NEMOTRON_NAMES = {"mamba": "M", "linear_attention": "M", "attention": "A", "full_attention": "A", "mlp": "F", "moe": "E"}


def _nemotron_h(c: Fields) -> dict[str, Any]:
    """Mixers and feed-forwards are layers of their own, each with one norm."""
    named = next((key for key in ("hybrid_override_pattern", "layers_block_type", "layer_types") if key in c), "layers_block_type")
    listed = c.take(named)
    n = c.count("num_hidden_layers", len(listed) if isinstance(listed, list | str) else 1)
    parts = c.kinds(named, n, NEMOTRON if isinstance(listed, str) else NEMOTRON_NAMES) or ""
    for other in ("layers_block_type", "layer_types"):
        if c.kinds(other, n, NEMOTRON_NAMES) not in (None, parts):
            raise c.refuse(other, f"contradicts {named}")
    c.must("attention_bias", False)
    _silu(c, "mamba_hidden_act")
    _unlimited_dt(c)
    c.must("sliding_window", None)
    c.must("mamba_proj_bias", False)
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    heads = c.count("num_attention_heads", 32)
    attention = {"n_heads": heads, "n_kv_heads": c.count("num_key_value_heads", 8), "position": "nope"}
    attention |= {"head_dim": c.count("head_dim", c.count("attention_head_dim", 128))}
    head_dim, biased = c.count("mamba_head_dim", 64), c.flag("use_bias")
    ssm = {
        "d_ssm": c.count("mamba_num_heads", 128) * head_dim,
        "head_dim": head_dim,
        "d_state": c.count("ssm_state_size", 128),
        "d_conv": c.count("conv_kernel", c.count("mamba_d_conv", 4)),
        "n_groups": c.count("n_groups", c.count("mamba_n_groups", 8)),
        "chunk_size": c.count("chunk_size", c.count("mamba_chunk_size", 128)),
        "conv_bias": c.flag("use_conv_bias", c.flag("mamba_conv_bias", True)),
        "in_bias": biased,
        "out_bias": biased,
        "dt_min": c.number("time_step_min", c.number("mamba_dt_min", 0.001)),
    }
    mlp_bias, act = c.flag("mlp_bias"), c.word("mlp_hidden_act", ACTIVATIONS, "relu2")
    design: dict[str, Any] = {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": False,
        "norm_eps": c.number("layer_norm_epsilon", c.number("rms_norm_eps", c.number("norm_eps", 1e-5))),
        "d_model": c.count("hidden_size"),
        "n_layers": n,
        "layers": {
            "pattern": "".join(part if part in "MA" else "-" for part in parts),
            "ffns": "".join(part if part in "FE" else "-" for part in parts),
        },
        "attention": attention,
        "ssm": ssm,
        "ffn": {"kind": "mlp", "d_ff": c.count("intermediate_size", 21504), "activation": act, "bias": mlp_bias},
    }
    experts = ("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size", "moe_latent_size")
    routing = ("num_experts_per_tok", "routed_scaling_factor", "n_group", "topk_group", "norm_topk_prob")
    if "E" in parts:
        if mlp_bias:
            raise c.refuse("mlp_bias", "must be False where layers hold experts")
        design["ffns"] = {"E": _nemotron_experts(c, act)}
    c.ignore(" ".join((*experts, *routing)))
    c.ignore("""expand mamba_expand mamba_ssm_cache_dtype moe_shared_expert_overlap num_nextn_predict_layers mtp_layers_block_type
        mtp_hybrid_override_pattern hidden_dropout rope_theta partial_rotary_factor mamba_dt_min mamba_dt_max mamba_dt_limit
        mamba_dt_init_floor attention_head_dim norm_eps rms_norm_eps""")
    return design


def _nemotron_experts(c: Fields, act: str) -> dict[str, Any]:
    for key in ("n_group", "topk_group"):
        c.constant(key, 1)
    moe = {
        "kind": "moe",
        "n_routed": c.count("n_routed_experts", 8),
        "top_k": c.count("num_experts_per_tok", 2),
        "n_shared": c.count("n_shared_experts", 1),
        "d_expert": c.count("moe_intermediate_size", 7688),
        "d_shared": c.count("moe_shared_expert_intermediate_size", 7688),
        "gated": False,
        "activation": act,
        "norm_top_k": c.flag("norm_topk_prob", True),
        "scale": c.number("routed_scaling_factor", 1.0),
    }
    return moe | ({"d_latent": c.count("moe_latent_size")} if "moe_latent_size" in c else {})


def _granite(c: Fields) -> dict[str, Any]:
    """A shared feed-forward in every layer, and experts beside it where there are any."""
    design = _model(c, "rms_norm_eps", 1e-6)
    n, experts = design["n_layers"], c.count("num_local_experts", 8, least=0)
    c.must("normalization_function", "rmsnorm")
    c.must("mlp_bias", False)
    rope = 1.0 if c.take("position_embedding_type", None) == "rope" else None
    c.must("position_embedding_type", None, "nope", "rope")
    attention = _attention(c, rope_fraction=rope) | {"softmax_scale": c.number("attention_multiplier", 1.0)}
    if rope is None:
        c.ignore("rope_theta rope_scaling rope_parameters")
    if attention["softmax_scale"] == attention["head_dim"] ** -0.5:
        del attention["softmax_scale"]
    for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
        c.constant(key, 1.0, 1)
    pattern = c.kinds("layer_types", n, HYBRID) or c.kinds("layers_block_type", n, HYBRID) or "M" * n
    shared = c.count("shared_intermediate_size", 1024)
    ffn: dict[str, Any] = {"kind": "swiglu", "d_ff": shared, "activation": c.word("hidden_act", ACTIVATIONS, "silu")}
    if experts:
        ffn = {"kind": "moe", "n_routed": experts, "top_k": c.count("num_experts_per_tok", 2), "n_shared": 1, "d_shared": shared}
        ffn |= {"d_expert": c.count("intermediate_size"), "score": "softmax", "norm_top_k": True}
    c.ignore("intermediate_size num_experts_per_tok init_method shared_intermediate_size")
    ssm = _bamba_ssm(c, design["d_model"]) if "M" in pattern else None
    if ssm is None:
        c.ignore("hidden_act mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand mamba_chunk_size")
        c.ignore("mamba_conv_bias mamba_proj_bias time_step_limit")
    return design | {"layers": {"pattern": pattern}, "attention": attention, "ssm": ssm, "ffn": ffn}


def _hymba(c: Fields) -> dict[str, Any]:
    """Attention and Mamba-1 heads in every layer, each branch normed whole, their mean projected; some layers reuse keys and values."""
    design = _model(c, "rms_norm_eps", 1e-6, tied=True)
    n, d = design["n_layers"], design["d_model"]
    heads = c.count("num_attention_heads")
    _silu(c)
    neutral: dict[str, Any] = {
        "kv_weight_reuse": False,
        "memory_tokens_interspersed_every": 0,
        "num_mamba": 1,
        "num_experts": 1,
        "kq_norm": "none",
    }
    for key, value in (neutral | {"attn_hidden_size": -1, "kq_head_dim": -1, "kv_reuse_every_i_layer": -1}).items():
        c.must(key, value)
    c.must("mamba_proj_bias", False)
    c.kinds("layer_type", n, {"h": "H", "hybrid": "H"})
    c.ignore("attn_implementation_new calc_logits_for_entire_prompt conv_dim num_experts_per_tok seq_length")
    ssm = _mamba1(c) | {"dt_bc_norm": c.flag("mamba_inner_layernorms", True)}
    attention = {"n_heads": heads, "n_kv_heads": c.count("num_key_value_heads", heads), "head_dim": d // heads}
    attention["v_head_dim"] = ssm["d_ssm"] // heads
    c.must("v_head_dim", attention["v_head_dim"])
    meta = c.count("num_memory_tokens", 0, least=0)
    theta = c.number("rope_theta", 1e4)
    if c.word("rope_type", {"ntk": "ntk", "default": "default"}, "default") == "ntk":  # a larger theta, once for all lengths
        longer = 2 * c.count("max_position_embeddings", 8192) / c.count("orig_max_position_embeddings", 2048) - 1
        if longer <= 0 or attention["head_dim"] <= 2:
            raise c.refuse("rope_type", "needs max_position_embeddings above half of orig_max_position_embeddings, and heads wider than 2")
        theta *= longer ** (attention["head_dim"] / (attention["head_dim"] - 2))
    attention |= {"rope_theta": theta} if c.flag("rope", True) else NOPE
    c.ignore("orig_max_position_embeddings")
    everywhere, window = c.indices("global_attn_idx", n), c.count("sliding_window")
    reusing = _reusing(c, n)
    axes = {"norm": "group", "scalar": "none", "fusion": "add", "value": "separate", "out": "joint", "whole_norm": True}
    kinds: dict[str, dict[str, Any]] = {
        "G": {"kind": "attention"},
        "W": {"kind": "swa", "window": window, "sink": meta},
        "g": {"kind": "attention", "reuse_kv": True},
        "w": {"kind": "swa", "window": window, "sink": meta, "reuse_kv": True},
    }
    pattern = "".join(("G" if i in everywhere else "W") if i not in reusing else "g" if i in everywhere else "w" for i in range(n))
    mixers = {key: {"kind": "intra", "attention": kinds[key] | attention, "ssm": ssm} | axes for key in kinds if key in pattern}
    return design | {
        "layers": {"pattern": pattern},
        "mixers": mixers,
        "ffn": _gated(c, act="mlp_hidden_act"),
        "meta_tokens": meta,
    }


def _reusing(c: Fields, n_layers: int) -> set[int]:
    """Hymba's layers that take keys and values of the first of their group."""
    groups = c.take("kv_reuse_group", None) or []
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise c.refuse("kv_reuse_group", "must be a list of lists of layer numbers")
    layers = [i for group in groups for i in group]
    if not all(isinstance(i, int) and 0 <= i < n_layers for i in layers) or len(set(layers)) < len(layers):
        raise c.refuse("kv_reuse_group", f"must name layers from 0 to {n_layers - 1}, each once")
    if any(group != list(range(group[0], group[0] + len(group))) for group in groups if group):
        raise c.refuse("kv_reuse_group", "must be groups of consecutive layers: keys and values are those of the last layer that made some")
    return {i for group in groups for i in group[1:]}


def _samba(c: Fields) -> dict[str, Any]:
    """Samba's own config (lit_gpt): Mamba-1 and windows in turn, each with a gated feed-forward."""
    n, d, multiple = c.count("n_layer"), c.count("n_embd"), c.count("padding_multiple", 512)
    heads = c.count("n_head")
    for key, value in {"bias": False, "parallel_residual": False, "_mlp_class": "LLaMAMLP"}.items():
        c.must(key, value)
    c.must("_norm_class", "FusedRMSNorm", "RMSNorm")
    c.ignore("block_size name nope")
    head_dim = d // heads
    attention = {"n_heads": heads, "n_kv_heads": c.count("n_query_groups", heads), "head_dim": head_dim, "rope_theta": 1e4}
    attention |= {"rope_fraction": c.number("rotary_percentage", 1.0)}
    period = c.count("mb_per_layer")
    padded = c.count("padded_vocab_size", ceil(c.count("vocab_size") / multiple) * multiple)
    return {
        "vocab_size": padded,
        "tie_embeddings": c.flag("mamba_init"),
        "norm_eps": c.number("norm_eps", 1e-5),
        "d_model": d,
        "n_layers": n,
        "layers": {"pattern": every(n, period, 0, "M", "S")},
        "attention": attention,
        "swa": {"window": c.count("local_window"), "sink": 0, "rope_theta": 1e4},
        "ssm": {"kind": "mamba1", "d_ssm": 2 * d, "dt_rank": ceil(d / 16)},
        "ffn": {"kind": "swiglu", "d_ff": c.count("intermediate_size")},
    }


def _phi4flash(c: Fields) -> dict[str, Any]:
    """SambaY: Mamba and windowed differential attention, one full layer, then layers that reuse its keys and values and gate the last
    scan's output (arXiv 2507.06607)."""
    _silu(c)
    c.must("lm_head_bias", False)
    design = _model(c, "layer_norm_eps", tied=True)
    n, d, ssm = design["n_layers"], design["d_model"], _mamba1(c)
    period, window = c.count("mb_per_layer", 2), c.take("sliding_window", 2047)
    c.ignore("resid_pdrop embd_pdrop rope_theta rope_scaling original_max_position_embeddings sliding_window attention_bias")
    c.must("layer_types", None)
    listed = [w for w in window if w is not None] if isinstance(window, list) else [window]
    if not listed or not all(isinstance(w, int) and w > 0 for w in listed) or len(set(listed)) > 1:
        raise c.refuse("sliding_window", "must be one window, in every windowed layer")
    heads = c.count("num_attention_heads")
    attention = {"kind": "diff_attention", "n_heads": heads, "n_kv_heads": c.count("num_key_value_heads", 4), "head_dim": d // heads}
    attention |= {"position": "nope", "qkv_bias": True, "out_bias": True, "norm": "group", "scalar": "diff_t", "fusion": "diff"}
    attention |= {"shared_norm": True}
    mixers = {
        "W": attention | {"window": listed[0]},
        "G": attention,
        "x": attention | {"reuse_kv": True},
        "g": {"kind": "gated_memory", "d_memory": ssm["d_ssm"], "bias": ssm["proj_bias"]},
    }
    late = n // 2 + 2
    pattern = "".join(("M" if i < late else "g") if i % period == 0 else "x" if i >= late else "W" if i < n // 2 else "G" for i in range(n))
    used = {key: mixer for key, mixer in mixers.items() if key in pattern}
    return design | {"layers": {"pattern": pattern}, "ssm": ssm, "mixers": used, "ffn": _gated(c), "norm": "layer"}


# ---------------------------------------------------------------- hybrids of attention and other recurrences

LINEAR = {"linear_attention": "R", "conv": "R", "recurrent": "R", "full_attention": "A", "attention": "A", "sliding_attention": "A"}


def _qwen3_next(c: Fields) -> dict[str, Any]:
    design, n = _model(c, "rms_norm_eps", 1e-6), c.count("num_hidden_layers")
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    attention = _attention(c, n_kv_heads=2, rope_fraction=c.number("partial_rotary_factor", 0.25)) | {"qk_norm": True, "output_gate": True}
    period = c.count("full_attention_interval", 4)
    pattern = c.kinds("layer_types", n, LINEAR) or every(n, period, period - 1, "A", "R")
    delta = {
        "kind": "gated_deltanet",
        "n_k_heads": c.count("linear_num_key_heads", 16),
        "n_v_heads": c.count("linear_num_value_heads", 32),
        "k_head_dim": c.count("linear_key_head_dim", 128),
        "v_head_dim": c.count("linear_value_head_dim", 128),
        "d_conv": c.count("linear_conv_kernel_dim", 4),
    }
    step, dense = c.count("decoder_sparse_step", 1), c.indices("mlp_only_layers", n)
    experts = c.count("num_experts", 512, least=0)
    feeds = "".join("E" if experts and i not in dense and (i + 1) % step == 0 else "F" for i in range(n))
    moe = {
        "kind": "moe",
        "n_routed": experts,
        "top_k": c.count("num_experts_per_tok", 10),
        "n_shared": 1,
        "d_expert": c.count("moe_intermediate_size", 512),
        "d_shared": c.count("shared_expert_intermediate_size", 512),
        "shared_gate": True,
        "score": "softmax",
        "norm_top_k": c.flag("norm_topk_prob", True),
    }
    c.constants["norm_offset"] = 1
    dense_ffn = _gated(c) if "F" in feeds else None
    c.ignore("intermediate_size hidden_act")
    return design | {
        "layers": {"pattern": pattern, "ffns": feeds},
        "attention": attention,
        "mixers": {"R": delta} if "R" in pattern else {},
        "ffn": dense_ffn,
        "ffns": {"E": moe} if "E" in feeds else {},
    }


def _kimi_linear(c: Fields) -> dict[str, Any]:
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    design, n = _model(c, "rms_norm_eps"), c.count("num_hidden_layers")
    linear = c.section("linear_attn_config")
    full = linear.indices("full_attn_layers", n, first=1)
    linear.indices("kda_layers", n, first=1)
    heads = c.count("num_attention_heads")
    default = at(n, [i - 1 for i in full], "A", "R") if full else every(n, 4, 0, "A", "R").replace("A", "R", 1)
    pattern = c.kinds("layer_types", n, LINEAR) or default
    mixers = {
        "A": {
            "kind": "mla",
            "n_heads": heads,
            "nope_head_dim": c.count("qk_nope_head_dim", 128),
            "rope_head_dim": c.count("qk_rope_head_dim", 64),
            "v_head_dim": c.count("v_head_dim", 128),
            "kv_rank": c.count("kv_lora_rank", 512),
            "q_rank": c.count("q_lora_rank") if "q_lora_rank" in c else None,
            "bias": c.flag("attention_bias"),
        },
        "R": {
            "kind": "kda",
            "n_heads": linear.count("num_heads", c.count("linear_num_heads", 32)),
            "head_dim": linear.count("head_dim", c.count("linear_head_dim", 128)),
            "d_conv": linear.count("short_conv_kernel_size", c.count("linear_conv_kernel_dim", 4)),
        },
    }
    linear.close()
    c.must("moe_layer_freq", 1)
    first, experts = c.count("first_k_dense_replace", 1, least=0), c.count("num_experts", 256)
    feeds = c.kinds("mlp_layer_types", n, {"dense": "F", "sparse": "E"}) or at(n, range(first), "F", "E")
    moe = {
        "kind": "moe",
        "n_routed": experts,
        "top_k": c.count("num_experts_per_token", c.count("num_experts_per_tok", 8)),
        "n_shared": c.count("num_shared_experts", 1, least=0),
        "d_expert": c.count("moe_intermediate_size", 1024),
        "norm_top_k": c.flag("moe_renormalize", True),
        "scale": c.number("routed_scaling_factor", 2.446),
    }
    c.must("moe_router_activation_func", "sigmoid")
    for key, neutral in (("num_expert_group", 1), ("topk_group", 1), ("mla_use_nope", True), ("rope_scaling", None)):
        c.constant(key, neutral)
    c.must("num_nextn_predict_layers", 0)
    c.ignore("q_lora_rank head_dim qk_head_dim model_max_length num_key_value_heads num_experts_per_tok use_grouped_topk")
    c.ignore("rope_theta rope_parameters")
    letters = {"A": "L", "R": "R"}  # A is the section's
    return design | {
        "layers": {"pattern": "".join(letters[x] for x in pattern), "ffns": feeds},
        "mixers": {letters[key]: mixer for key, mixer in mixers.items() if key in pattern},
        "ffn": _gated(c),
        "ffns": {"E": moe} if "E" in feeds else {},
    }


def _lfm2(c: Fields) -> dict[str, Any]:
    tied = c.flag("tie_word_embeddings", True)
    design = _model(c, "norm_eps", tied=True) | {"tie_embeddings": c.flag("tie_embedding", tied)}
    n, d = design["n_layers"], design["d_model"]
    c.must("attention_bias", False)
    heads = c.count("num_attention_heads")
    attention: dict[str, Any] = {"n_heads": heads, "n_kv_heads": c.count("num_key_value_heads", 8), "qk_norm": True}
    attention |= {"head_dim": c.count("head_dim", d // heads)}
    attention |= _rope(c, 1.0, theta=1e6)
    full = c.indices("full_attn_idxs", n) if "full_attn_idxs" in c else list(range(n))
    pattern = c.kinds("layer_types", n, LINEAR) or at(n, full, "A", "R")
    width = c.count("block_ff_dim", c.count("intermediate_size", 12288))
    if c.flag("block_auto_adjust_ff_dim", True):
        multiple = c.count("block_multiple_of", 256)
        width = ceil(int(c.number("block_ffn_dim_multiplier", 1.0) * (2 * width // 3)) / multiple) * multiple
    c.ignore("intermediate_size block_multiple_of block_ffn_dim_multiplier full_attn_idxs rope_theta")
    c.ignore("block_dim block_mlp_init_scale block_norm_eps block_out_init_scale block_use_swiglu block_use_xavier_init")
    c.ignore("conv_dim conv_dim_out conv_use_xavier_init num_heads use_pos_enc")
    conv = {"kind": "short_conv", "d_conv": c.count("conv_L_cache", 3), "bias": c.flag("conv_bias")}
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "mixers": {"R": conv} if "R" in pattern else {},
        "ffn": {"kind": "swiglu", "d_ff": width},
    }


def _recurrent_gemma(c: Fields) -> dict[str, Any]:
    """RG-LRU and windowed attention in turn; gates and feed-forward with biases."""
    design = _model(c, "rms_norm_eps", 1e-6, tied=True)
    n, d, heads = design["n_layers"], design["d_model"], c.count("num_attention_heads")
    biased = c.flag("attention_bias")
    window = c.count("attention_window_size", 2048)
    rope = _rope(c, c.number("partial_rotary_factor", 0.5))
    attention: dict[str, Any] = {
        "kind": "swa",
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": d // heads,
    }
    attention |= {"qkv_bias": biased, "out_bias": True, "window": window, "sink": 0} | rope
    types = c.take("block_types", ["recurrent", "recurrent", "attention"])
    if not isinstance(types, list | tuple) or not types or not set(types) <= {"recurrent", "attention"}:
        raise c.refuse("block_types", "must be a list of 'recurrent' and 'attention'")
    pattern = "".join({"recurrent": "R", "attention": "W"}[kind] for kind in types) * n
    lru = {"kind": "rg_lru", "width": c.count("lru_width", d), "n_blocks": heads, "d_conv": c.count("conv1d_width", 4)}
    mixers = {"W": attention, "R": lru}
    width = c.count("intermediate_size", 3 * d) // 2
    c.constant("logits_soft_cap", None)
    c.constants |= {"norm_offset": 1, "embedding_multiplier": d**0.5}
    c.must("head_dim", d // heads)
    c.ignore("w_init_variance_scale final_w_init_variance_scale")
    act = c.word("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    return design | {
        "layers": {"pattern": pattern[:n]},
        "mixers": {key: mixer for key, mixer in mixers.items() if key in pattern[:n]},
        "ffn": {"kind": "swiglu", "d_ff": width, "activation": act, "bias": True},
    }


FAMILIES: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "gemma3_text": _gemma3,
    "gpt_oss": _gpt_oss,
    "qwen2_vl": _qwen2_vl,
    "mamba": _mamba,
    "falcon_mamba": _falcon_mamba,
    "mamba2": _mamba2,
    "bamba": _bamba,
    "jamba": _jamba,
    "zamba": _zamba,
    "zamba2": _zamba2,
    "falcon_h1": _falcon_h1,
    "nemotron_h": _nemotron_h,
    "granitemoehybrid": _granite,
    "hymba": _hymba,
    "phi4flash": _phi4flash,
    "qwen3_next": _qwen3_next,
    "kimi_linear": _kimi_linear,
    "lfm2": _lfm2,
    "recurrent_gemma": _recurrent_gemma,
}

# Configs of other code than transformers', told by fields that only they have.
NATIVE: dict[str, tuple[tuple[str, ...], Callable[[Fields], dict[str, Any]]]] = {
    "mamba_ssm": (("d_model", "n_layer", "ssm_cfg"), _mamba_ssm),
    "samba": (("n_embd", "mb_per_layer", "local_window"), _samba),
}


def spec_from_config(config: Mapping[str, Any], name: str | None = None) -> ArchSpec:
    """The design of a config.json, called `name`, or else by its family. Raises SpecError with one line."""
    fields = Fields(config)
    family, read = _family(fields)
    try:
        design = read(fields)
    except OverflowError:
        raise SpecError(f"{family}: a number is too large") from None
    fields.close()
    if fields.constants:
        design["constants"] = fields.constants
    return ArchSpec.from_mapping({"schema": 1, "name": name or family} | {key: value for key, value in design.items() if value is not None})


def _family(fields: Fields) -> tuple[str, Callable[[Fields], dict[str, Any]]]:
    if "model_type" not in fields:
        for family, (keys, read) in NATIVE.items():
            if all(key in fields for key in keys):
                return family, read
    family = fields.take("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise fields.refuse("model_type", f"must be {' or '.join(map(repr, FAMILIES))}")
    return family, FAMILIES[family]


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a config.json. Raises SpecError with one line where it is missing, too large, no JSON or no config."""
    try:
        return parse_config(read_text(path, "config"))
    except TextError as error:
        raise SpecError(str(error)) from None


def parse_config(text: str | bytes) -> dict[str, Any]:
    """The fields of a config as text. Raises SpecError with one line."""
    if len(text) > MAX_BYTES:
        raise SpecError(too_long(len(text), "config"))
    try:
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON - line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise SpecError("not JSON - a number has thousands of digits") from None
    if not isinstance(data, dict):
        raise SpecError(f"{short(data)} - a config is a mapping of fields to values")
    if _depth(data) > MAX_DEPTH:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels")
    return data


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        level = [item for held in level for item in (held.values() if isinstance(held, dict) else held if isinstance(held, list) else ())]
    return depth
