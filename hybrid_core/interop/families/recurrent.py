"""Published hybrids of attention and other recurrences: gated DeltaNet, KDA, short convolutions,
RG-LRU."""

from math import ceil
from typing import Any

from hybrid_core.interop.families import shared
from hybrid_core.interop.fields import Fields, at, every

LINEAR = {
    "linear_attention": "R",
    "conv": "R",
    "recurrent": "R",
    "full_attention": "A",
    "attention": "A",
    "sliding_attention": "A",
}


def qwen3_next(c: Fields) -> dict[str, Any]:
    """Gated DeltaNet and gated attention, experts in every layer."""
    design, n = shared.model(c, "rms_norm_eps", 1e-6), c.layers()
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    c.must("use_sliding_window", False, None)
    attention = shared.attention(c, rope_fraction=c.number("partial_rotary_factor", 0.25)) | {
        "qk_norm": True,
        "output_gate": True,
    }
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
    step, dense = c.count("decoder_sparse_step", 1), frozenset(c.indices("mlp_only_layers", n))
    experts = c.count("num_experts", 512, least=0)
    feeds = "".join(
        "E" if experts and i not in dense and (i + 1) % step == 0 else "F" for i in range(n)
    )
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
    dense_ffn = shared.gated(c) if "F" in feeds else None
    c.ignore("intermediate_size hidden_act")
    return design | {
        "layers": {"pattern": pattern, "ffns": feeds},
        "attention": attention,
        "mixers": {"R": delta} if "R" in pattern else {},
        "ffn": dense_ffn,
        "ffns": {"E": moe} if "E" in feeds else {},
    }


def kimi_linear(c: Fields) -> dict[str, Any]:
    """Kimi Delta Attention and multi-head latent attention, experts behind the first layers."""
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    design, n = shared.model(c, "rms_norm_eps"), c.layers()
    linear = c.section("linear_attn_config")
    full = linear.indices("full_attn_layers", n, first=1)
    linear.indices("kda_layers", n, first=1)
    heads = c.count("num_attention_heads")
    default = (
        at(n, [i - 1 for i in full], "A", "R")
        if full
        else every(n, 4, 0, "A", "R").replace("A", "R", 1)
    )
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
    feeds = c.kinds("mlp_layer_types", n, {"dense": "F", "sparse": "E"}) or at(
        n, range(first), "F", "E"
    )
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
    for key, neutral in (
        ("num_expert_group", 1),
        ("topk_group", 1),
        ("mla_use_nope", True),
        ("rope_scaling", None),
    ):
        c.constant(key, neutral)
    c.must("num_nextn_predict_layers", 0)
    c.ignore(
        "q_lora_rank head_dim qk_head_dim model_max_length num_key_value_heads num_experts_per_tok use_grouped_topk"
    )
    c.ignore("rope_theta rope_parameters")
    letters = {"A": "L", "R": "R"}  # A is the section's
    return (
        design
        | {
            "state_dtype": "fp32",  # vLLM keeps KDA's states so, whatever the model's dtype (kda_state_dtype in its mamba_utils.py)
            "layers": {"pattern": "".join(letters[x] for x in pattern), "ffns": feeds},
            "mixers": {letters[key]: mixer for key, mixer in mixers.items() if key in pattern},
            "ffn": shared.gated(c),
            "ffns": {"E": moe} if "E" in feeds else {},
        }
    )


def lfm2(c: Fields) -> dict[str, Any]:
    """Short convolutions and attention."""
    tied = c.flag("tie_word_embeddings", True)
    design = shared.model(c, "norm_eps", tied=True) | {
        "tie_embeddings": c.flag("tie_embedding", tied)
    }
    n, d = design["n_layers"], design["d_model"]
    c.must("attention_bias", False)
    heads = c.count("num_attention_heads")
    attention: dict[str, Any] = {
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", 8),
        "qk_norm": True,
    }
    attention |= {"head_dim": c.count("head_dim", d // heads)}
    attention |= shared.rope(c, 1.0, theta=1e6)
    full = c.indices("full_attn_idxs", n) if "full_attn_idxs" in c else list(range(n))
    pattern = c.kinds("layer_types", n, LINEAR) or at(n, full, "A", "R")
    width = c.count("block_ff_dim", c.count("intermediate_size", 12288))
    if c.flag("block_auto_adjust_ff_dim", True):
        multiple = c.count("block_multiple_of", 256)
        width = (
            ceil(int(c.number("block_ffn_dim_multiplier", 1.0) * (2 * width // 3)) / multiple)
            * multiple
        )
    c.ignore(
        "intermediate_size block_multiple_of block_ffn_dim_multiplier full_attn_idxs rope_theta"
    )
    c.ignore(
        "block_dim block_mlp_init_scale block_norm_eps block_out_init_scale block_use_swiglu block_use_xavier_init"
    )
    c.ignore("conv_dim conv_dim_out conv_use_xavier_init num_heads use_pos_enc")
    conv = {"kind": "short_conv", "d_conv": c.count("conv_L_cache", 3), "bias": c.flag("conv_bias")}
    return design | {
        "layers": {"pattern": pattern},
        "attention": attention,
        "mixers": {"R": conv} if "R" in pattern else {},
        "ffn": {"kind": "swiglu", "d_ff": width},
    }


def recurrent_gemma(c: Fields) -> dict[str, Any]:
    """RG-LRU and windowed attention in turn; gates and feed-forward with biases."""
    design = shared.model(c, "rms_norm_eps", 1e-6, tied=True)
    n, d, heads = design["n_layers"], design["d_model"], c.count("num_attention_heads")
    biased = c.flag("attention_bias")
    window = c.count("attention_window_size", 2048)
    rope = shared.rope(c, c.number("partial_rotary_factor", 0.5))
    attention: dict[str, Any] = {
        "kind": "swa",
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": d // heads,
    }
    attention |= {"qkv_bias": biased, "out_bias": True, "window": window, "sink": 0} | rope
    types = c.take("block_types", ["recurrent", "recurrent", "attention"])
    if (
        not isinstance(types, list | tuple)
        or not types
        or not set(types) <= {"recurrent", "attention"}
    ):
        raise c.refuse("block_types", "must be a list of 'recurrent' and 'attention'")
    letters = {"recurrent": "R", "attention": "W"}
    pattern = "".join(letters[types[i % len(types)]] for i in range(n))
    lru = {
        "kind": "rg_lru",
        "width": c.count("lru_width", d),
        "n_blocks": heads,
        "d_conv": c.count("conv1d_width", 4),
    }
    mixers = {"W": attention, "R": lru}
    width = c.count("intermediate_size", 3 * d) // 2
    c.constant("logits_soft_cap", None)
    c.constants |= {"norm_offset": 1, "embedding_multiplier": d**0.5}
    c.must("head_dim", d // heads)
    c.ignore("w_init_variance_scale final_w_init_variance_scale")
    act = c.word("hidden_activation", shared.ACTIVATIONS, "gelu_pytorch_tanh")
    return design | {
        "layers": {"pattern": pattern},
        "mixers": {key: mixer for key, mixer in mixers.items() if key in pattern},
        "ffn": {"kind": "swiglu", "d_ff": width, "activation": act, "bias": True},
    }
