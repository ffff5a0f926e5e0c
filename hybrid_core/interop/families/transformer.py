"""Published Transformers: full attention, windows, sinks."""

from typing import Any

from hybrid_core.interop.families import shared
from hybrid_core.interop.fields import Fields, every


def llama(c: Fields) -> dict[str, Any]:
    """Full attention and a gated feed-forward in every layer."""
    return shared.model(c, "rms_norm_eps", 1e-6) | {
        "layers": {"strategy": "transformer"},
        "attention": shared.attention(c),
        "ffn": shared.gated(c),
    }


def mistral(c: Fields) -> dict[str, Any]:
    """The same, behind a window where the config has one."""
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    design = shared.model(c, "rms_norm_eps", 1e-6) | {
        "attention": shared.attention(c),
        "ffn": shared.gated(c),
    }
    if c.take("sliding_window", 4096) is None:
        return design | {"layers": {"strategy": "transformer"}}
    if "rope_scaling" in design["attention"]:
        raise c.refuse(
            "sliding_window",
            "must be null where RoPE is scaled: windowed layers have no scaling here",
        )
    swa = {
        "window": c.count("sliding_window", 4096),
        "sink": 0,
        "rope_theta": design["attention"]["rope_theta"],
    }
    return design | {"layers": {"strategy": "swa", "ratio": "0:1"}, "swa": swa}


WINDOWED = {"sliding_attention": "S", "full_attention": "A", "attention": "A"}


def gemma3(c: Fields) -> dict[str, Any]:
    """Two RoPEs; norms behind mixer and feed-forward too; embeddings times the root of their
    width."""
    design = shared.model(c, "rms_norm_eps", 1e-6, tied=True)
    new = c.section("rope_parameters")
    thetas = {
        "full_attention": c.number("rope_theta", 1e6),
        "sliding_attention": c.number("rope_local_base_freq", 1e4),
    }
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
        "swa": {
            "window": c.count("sliding_window", 4096),
            "sink": 0,
            "rope_theta": thetas["sliding_attention"],
        },
        "ffn": shared.gated(c, act="hidden_activation")
        | {"activation": c.word("hidden_activation", shared.ACTIVATIONS, "gelu_pytorch_tanh")},
        "post_norm": True,
    }


# What GptOssConfig scales RoPE by where a config says nothing of it.
GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def gpt_oss(c: Fields) -> dict[str, Any]:
    """Learnt sinks, biases everywhere, and a clamped gate in the experts."""
    design = shared.model(c, "rms_norm_eps")
    n = design["n_layers"]
    attention = shared.attention(c, theta=150_000.0) | {"sink_logits": True}
    attention |= dict.fromkeys(("qkv_bias", "out_bias"), c.flag("attention_bias", True))
    pattern = c.kinds("layer_types", n, WINDOWED) or every(n, 2, 1, "A", "S")
    shared.silu(c)
    if "rope_parameters" not in c and "rope_scaling" not in c:
        c.constants["rope_scaling"] = dict(GPT_OSS_ROPE)
    c.constant("swiglu_limit", 7.0)
    c.constant("swiglu_alpha", 1.702)
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
    swa = {
        "window": c.count("sliding_window", 128),
        "sink": 0,
        "rope_theta": attention["rope_theta"],
    }
    return design | {"layers": {"pattern": pattern}, "attention": attention, "swa": swa, "ffn": ffn}


def qwen2_vl(c: Fields) -> dict[str, Any]:
    """The language model, with Vamba's layers on the vision tokens where the config has them: their
    parameters count, their state and work belong to the video, not to the text."""
    design = shared.model(c, "rms_norm_eps", 1e-6)
    d, attention = (
        design["d_model"],
        shared.attention(c, rope_fraction=1.0) | {"qkv_bias": True, "out_bias": False},
    )
    c.must("use_sliding_window", False)
    c.ignore("sliding_window max_window_layers")
    design |= {
        "attention": attention,
        "ffn": shared.gated(c),
        "outside_params": _qwen2_vision(c, d),
    }
    v = c.section("vision_mamba_mixer_config")
    if not v.flag("enable"):
        return design | {"layers": {"strategy": "transformer"}}
    v.must("hidden_dim", d)
    v.must("bias", False)
    v.ignore("chunk_size norm_before_gate")
    d_ssm, d_state, groups = (
        v.count("expand", 2) * d,
        v.count("d_state", 128),
        v.count("ngroups", 1),
    )
    heads, channels = d_ssm // v.count("headdim", 64), d_ssm + 2 * groups * d_state
    d_q, d_kv = (
        attention["n_heads"] * attention["head_dim"],
        2 * attention["n_kv_heads"] * attention["head_dim"],
    )
    on_text = 2 * d * d_q
    on_video = d * d_kv + d_q + d_kv + d * (d_ssm + channels + heads) + d_ssm * d
    on_video += (
        channels * (v.count("d_conv", 4) + v.flag("conv_bias", True))
        + 3 * heads
        + d_ssm * v.flag("rmsnorm", True)
        + d
    )
    v.close()
    vision = {
        "kind": "declared",
        "name": "cross-attention to video tokens, and Mamba-2 on them",
        "matrix_params": on_text,
    }
    branches = [{"kind": "attention"} | attention, vision | {"other_params": on_video}]
    return design | {
        "mixers": {"V": {"kind": "side_by_side", "branches": branches}},
        "layers": {"pattern": "V" * design["n_layers"]},
    }


def _qwen2_vision(c: Fields, d_model: int) -> int:
    """Parameters of Qwen2-VL's vision tower and its merger into the language model (patches of 2 x
    14 x 14 x 3 pixels)."""
    v = c.section("vision_config")
    width, depth, patch = (
        v.count("embed_dim", 1280),
        v.count("depth", 32),
        v.count("patch_size", 14),
    )
    inner, merged = v.count("mlp_ratio", 4) * width, v.count("spatial_merge_size", 2) ** 2 * width
    v.must("hidden_size", d_model)
    v.ignore("hidden_act in_chans in_channels num_heads spatial_patch_size model_type")
    block = (
        4 * width
        + (3 * width + 3) * width
        + (width + 1) * width
        + (width + 1) * inner
        + (inner + 1) * width
    )
    frames = v.count("temporal_patch_size", 2)
    v.close()
    c.ignore(
        "image_token_id video_token_id vision_start_token_id vision_end_token_id vision_token_id"
    )
    return (
        3 * frames * patch**2 * width
        + depth * block
        + 2 * width
        + (merged + 1) * merged
        + (merged + 1) * d_model
    )
