"""Published hybrids of attention and Mamba."""

from math import ceil
from typing import Any

from hybrid_core.interop.families import shared
from hybrid_core.interop.fields import Fields, at, every


def bamba(c: Fields) -> dict[str, Any]:
    """Attention or Mamba-2, and a feed-forward, in every layer."""
    design = shared.model(c, "rms_norm_eps") | {
        "attention": shared.attention(c, rope_fraction=0.5),
        "ffn": shared.gated(c),
    }
    ssm, attention = shared.bamba_ssm(c, design["d_model"]), design["attention"]
    c.must("attn_rotary_emb", round(attention["head_dim"] * attention["rope_fraction"]))
    n = design["n_layers"]
    layer_types = c.kinds("layer_types", n, HYBRID)
    pattern = at(n, c.indices("attn_layer_indices", n), "A", "M")
    if layer_types and "attn_layer_indices" in c and layer_types != pattern:
        raise c.refuse("layer_types", "contradicts attn_layer_indices")
    return design | {"layers": {"pattern": layer_types or pattern}, "ssm": ssm}


HYBRID = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "A",
    "full_attention": "A",
    "hybrid": "Z",
}


def jamba(c: Fields) -> dict[str, Any]:
    """Mamba-1 with norms of dt, B and C; attention and experts at their own periods; no position
    encoding."""
    c.must("attention_bias", False)
    c.must("mlp_bias", False)
    shared.silu(c)
    design = shared.model(c, "rms_norm_eps", 1e-6) | {
        "attention": shared.attention(c, rope_fraction=None)
    }
    n, experts = design["n_layers"], c.count("num_experts", 16)
    c.must("sliding_window", None)
    pattern = every(
        n, c.count("attn_layer_period", 8), c.count("attn_layer_offset", 4, least=0), "A", "M"
    )
    for key in ("layer_types", "layers_block_type"):
        if c.kinds(key, n, HYBRID) not in (None, pattern):
            raise c.refuse(key, "contradicts attn_layer_period and attn_layer_offset")
    c.ignore("layers_num_experts")
    feeds = every(
        n, c.count("expert_layer_period", 2), c.count("expert_layer_offset", 1, least=0), "E", "F"
    )
    moe = {
        "kind": "moe",
        "n_routed": experts,
        "top_k": c.count("num_experts_per_tok", 2),
        "n_shared": 0,
        "score": "softmax",
    }
    layers = {"pattern": pattern} | ({"ffns": feeds} if experts > 1 else {})
    ffns = {"E": moe | {"d_expert": c.count("intermediate_size")}} if experts > 1 else {}
    return design | {
        "layers": layers,
        "ssm": shared.mamba1(c) | {"dt_bc_norm": True},
        "ffn": shared.gated(c),
        "ffns": ffns,
    }


def _shared_blocks(
    c: Fields,
    design: dict[str, Any],
    pattern: str,
    ssm: dict[str, Any],
    ffn: dict[str, Any],
    **own: Any,
) -> dict[str, Any]:
    """Zamba's layers: hybrid ones take the shared blocks in turn; the others are the SSM alone."""
    d, n_blocks = design["d_model"], own.pop("n_blocks")
    heads = c.count("num_attention_heads")
    d_attention = c.count("attention_hidden_size", 2 * d)
    head_dim = c.count("attention_head_dim", 2 * d // heads)
    if d_attention != 2 * d or head_dim * heads != 2 * d:
        raise c.refuse(
            "num_attention_heads", f"must make heads that add up to twice hidden_size ({2 * d})"
        )
    attention = {
        "kind": "attention",
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": head_dim,
    }
    attention |= {"d_input": 2 * d, "softmax_scale": (head_dim / 2) ** -0.5} | own.pop("rope")
    kind = {
        "kind": "shared_block",
        "attention": attention,
        "ffn": ffn,
        "ssm": {"kind": "mamba2"} | ssm,
    } | own
    letters, taken = "", 0
    for letter in pattern:
        letters += letter if letter == "M" else str(taken % n_blocks)
        taken += letter == "Z"
    mixers = {str(block): kind | {"block": block} for block in range(min(n_blocks, taken))}
    return design | {"layers": {"pattern": letters}, "ssm": ssm, "mixers": mixers}


def zamba(c: Fields) -> dict[str, Any]:
    """Mamba-1 layers, some of them joined to one attention block that all share."""
    c.must(
        "tie_word_embeddings", True
    )  # transformers ties the blocks together with the embeddings, or neither
    design, ssm = shared.model(c, "rms_norm_eps", tied=True), shared.mamba1(c)
    shared.silu(c, "hidden_mamba_act")
    c.must("sliding_window", None)
    c.ignore("rope_theta num_query_groups")
    n = design["n_layers"]
    period, offset = c.count("attn_layer_period", 6), c.count("attn_layer_offset", 4, least=0)
    default = ("MMZ" + every(max(n - 3, 0), period, offset, "Z", "M"))[:n]
    pattern = (
        c.kinds("layers_block_type", n, HYBRID) or c.kinds("layer_types", n, HYBRID) or default
    )
    ffn = shared.gated(c) | {"activation": c.word("hidden_act", shared.ACTIVATIONS, "gelu")}
    ssm |= {"n_heads": c.count("n_mamba_heads", 2)}
    return _shared_blocks(c, design, pattern, ssm, ffn, n_blocks=1, rope=shared.NOPE)


ZAMBA2_GATED_EPS = 1e-5  # of Mamba-2's norm, whatever the config's epsilon is


def zamba2(c: Fields) -> dict[str, Any]:
    """Mamba-2 layers, some of them joined to blocks that are shared in turn, with adapters of their
    own.

    dt has no floor, as in Zyphra's own code (Zyphra/Zamba2 at 1b182f4, mamba2_layer.py: dt_limit is
    (0, inf)). transformers 5.23 clamps it by `time_step_min`, as for Nemotron-H."""
    c.must("tie_word_embeddings", True)
    design = shared.model(c, "rms_norm_eps", tied=True)
    n, d = design["n_layers"], design["d_model"]
    heads, d_ssm, biased = (
        c.count("n_mamba_heads", 8),
        c.count("mamba_expand", 2) * d,
        c.flag("add_bias_linear"),
    )
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
    } | shared.dt_limit(c)
    c.must("use_conv_bias", True)  # transformers has the bias, whatever the field says
    if design["norm_eps"] != ZAMBA2_GATED_EPS:
        c.constants["gated_norm_eps"] = ZAMBA2_GATED_EPS
    hybrid = c.indices("hybrid_layer_ids", n)
    pattern = (
        c.kinds("layers_block_type", n, HYBRID)
        or c.kinds("layer_types", n, HYBRID)
        or at(n, hybrid, "Z", "M")
    )
    if hybrid and pattern != at(n, hybrid, "Z", "M"):
        raise c.refuse("hybrid_layer_ids", "contradicts layers_block_type")
    width = c.count("intermediate_size", 4 * d)
    c.must("ffn_hidden_size", width, None)
    c.ignore(
        "mamba_headdim kv_channels num_query_groups use_mem_eff_path state_size ft_lora lora_rank layers mamba_num_heads"
    )
    c.constant("use_long_context", False)
    ffn = {
        "kind": "swiglu",
        "d_ff": width,
        "activation": c.word("hidden_act", shared.ACTIVATIONS, "gelu"),
        "bias": biased,
    }
    rope = shared.rope(c, 1.0) if c.flag("use_mem_rope") else shared.NOPE
    if rope == shared.NOPE:
        c.ignore("rope_theta rope_scaling rope_parameters")
    adapters = {
        "adapter_rank": c.count("adapter_rank", 128, least=0),
        "attention_adapters": c.flag("use_shared_attention_adapter"),
    }
    heads = c.count("num_attention_heads")
    if (
        adapters["attention_adapters"] and c.count("num_key_value_heads", heads) != heads
    ):  # theirs are as wide as all heads
        raise c.refuse(
            "num_key_value_heads",
            f"must be num_attention_heads ({heads}) with use_shared_attention_adapter",
        )
    return _shared_blocks(
        c, design, pattern, ssm, ffn, n_blocks=c.count("num_mem_blocks", 1), rope=rope, **adapters
    )


FALCON_MULTIPLIERS = """
    lm_head_multiplier embedding_multiplier key_multiplier attention_out_multiplier attention_in_multiplier ssm_in_multiplier
    ssm_out_multiplier
"""


def falcon_h1(c: Fields) -> dict[str, Any]:
    """Attention and Mamba-2 side by side in every layer: the paper's intra-hybrid block without
    norms, their outputs added."""
    shared.silu(c)
    design = shared.model(c, "rms_norm_eps") | {
        "attention": shared.attention(c),
        "ffn": shared.gated(c),
    }
    a, n, d = design["attention"], design["n_layers"], design["d_model"]
    d_ssm, heads = (
        c.count("mamba_d_ssm", c.count("mamba_expand", 2) * d),
        c.count("mamba_n_heads", 128),
    )
    head_dim = d_ssm // heads if c.take("mamba_d_head") == "auto" else c.count("mamba_d_head")
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
    } | shared.dt_limit(c)
    intra = {
        "n_heads": a["n_heads"],
        "n_kv_heads": a["n_kv_heads"],
        "qk_head_dim": a["head_dim"],
        "v_head_dim": a["head_dim"],
    }
    intra |= {
        "d_ssm": d_ssm,
        "norm": "none",
        "scalar": "none",
        "fusion": "add",
        "value": "separate",
        "out": "separate",
    }
    for key in FALCON_MULTIPLIERS.split():
        c.constant(key, 1.0)
    c.constant("mlp_multipliers", [1.0, 1.0])
    c.constant("ssm_multipliers", [1.0] * 5)
    c.ignore("mamba_use_mlp attn_layer_indices layer_types layers_block_type")
    return design | {
        "layers": {"pattern": "H" * n},
        "ssm": ssm,
        "intra": intra | {"ssm_norm": normed},
    }


NEMOTRON = {"M": "M", "*": "A", "-": "F", "E": "E"}
NEMOTRON_DEFAULT = "MEAF"  # transformers' layers where a config names none
NEMOTRON_NAMES = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "A",
    "full_attention": "A",
    "mlp": "F",
    "moe": "E",
}


def nemotron_h(c: Fields) -> dict[str, Any]:
    """Mixers and feed-forwards are layers of their own, each with one norm.

    dt follows `time_step_limit`, as in NVIDIA's own code (modeling_nemotron_h.py). transformers
    5.23 clamps dt from below by `time_step_min` instead, an initialisation bound: there a published
    model computes something else (transformers#48989)."""
    n, parts = _nemotron_parts(c)
    c.must("attention_bias", False)
    shared.silu(c, "mamba_hidden_act")
    c.must("sliding_window", None)
    c.must("mamba_proj_bias", False)
    c.must("tie_word_embeddings", False)  # transformers ties nothing here, whatever the field says
    heads = c.count("num_attention_heads", 32)
    attention = {
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", 8),
        "position": "nope",
    }
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
    } | shared.dt_limit(c, "mamba_dt_limit" if "mamba_dt_limit" in c else "time_step_limit")
    mlp_bias, act = c.flag("mlp_bias"), c.word("mlp_hidden_act", shared.ACTIVATIONS, "relu2")
    design: dict[str, Any] = {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": False,
        "norm_eps": c.number(
            "layer_norm_epsilon", c.number("rms_norm_eps", c.number("norm_eps", 1e-5))
        ),
        "d_model": c.count("hidden_size"),
        "n_layers": n,
        "layers": {
            "pattern": "".join(part if part in "MA" else "-" for part in parts),
            "ffns": "".join(part if part in "FE" else "-" for part in parts),
        },
        "attention": attention,
        "ssm": ssm,
        "ffn": {
            "kind": "mlp",
            "d_ff": c.count("intermediate_size", 21504),
            "activation": act,
            "bias": mlp_bias,
        },
    }
    experts = (
        "n_routed_experts",
        "n_shared_experts",
        "moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "moe_latent_size",
    )
    routing = (
        "num_experts_per_tok",
        "routed_scaling_factor",
        "n_group",
        "topk_group",
        "norm_topk_prob",
    )
    if "E" in parts:
        if mlp_bias:
            raise c.refuse("mlp_bias", "must be False where layers hold experts")
        design["ffns"] = {"E": _nemotron_experts(c, act)}
    c.ignore(" ".join((*experts, *routing)))
    c.ignore("""expand mamba_expand moe_shared_expert_overlap num_nextn_predict_layers mtp_layers_block_type
        mtp_hybrid_override_pattern hidden_dropout rope_theta partial_rotary_factor mamba_dt_min mamba_dt_max
        mamba_dt_init_floor time_step_limit attention_head_dim norm_eps rms_norm_eps""")
    return design


def _nemotron_parts(c: Fields) -> tuple[int, str]:
    """The number of layers and a letter for each, from the first of three fields that is there."""
    named = next(
        (
            key
            for key in ("hybrid_override_pattern", "layers_block_type", "layer_types")
            if key in c
        ),
        None,
    )
    if named is None:
        n = c.layers("num_hidden_layers", len(NEMOTRON_DEFAULT))
        if n != len(NEMOTRON_DEFAULT):
            raise c.refuse(
                "layers_block_type",
                f"without it the class has {len(NEMOTRON_DEFAULT)} layers, num_hidden_layers is {n}",
            )
        c.ignore("hybrid_override_pattern layers_block_type layer_types")
        return n, NEMOTRON_DEFAULT
    listed = c.take(named)
    n = c.layers("num_hidden_layers", len(listed) if isinstance(listed, list | str) else 1)
    parts = c.kinds(named, n, NEMOTRON if isinstance(listed, str) else NEMOTRON_NAMES) or ""
    for other in ("layers_block_type", "layer_types"):
        if c.kinds(other, n, NEMOTRON_NAMES) not in (None, parts):
            raise c.refuse(other, f"contradicts {named}")
    return n, parts


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


def granite(c: Fields) -> dict[str, Any]:
    """A shared feed-forward in every layer, and experts beside it where there are any."""
    design = shared.model(c, "rms_norm_eps", 1e-6)
    n, experts = design["n_layers"], c.count("num_local_experts", 8, least=0)
    c.must("normalization_function", "rmsnorm")
    c.must("mlp_bias", False)
    rope = 1.0 if c.take("position_embedding_type", None) == "rope" else None
    c.must("position_embedding_type", None, "nope", "rope")
    attention = shared.attention(c, rope_fraction=rope) | {
        "softmax_scale": c.number("attention_multiplier", 1.0)
    }
    if rope is None:
        c.ignore("rope_theta rope_scaling rope_parameters")
    if attention["softmax_scale"] == attention["head_dim"] ** -0.5:
        del attention["softmax_scale"]
    for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
        c.constant(key, 1.0, 1)
    pattern = (
        c.kinds("layer_types", n, HYBRID) or c.kinds("layers_block_type", n, HYBRID) or "M" * n
    )
    d_shared = c.count("shared_intermediate_size", 1024)
    ffn: dict[str, Any] = {
        "kind": "swiglu",
        "d_ff": d_shared,
        "activation": c.word("hidden_act", shared.ACTIVATIONS, "silu"),
    }
    if experts:
        ffn = {
            "kind": "moe",
            "n_routed": experts,
            "top_k": c.count("num_experts_per_tok", 2),
            "n_shared": 1,
            "d_shared": d_shared,
        }
        ffn |= {"d_expert": c.count("intermediate_size"), "score": "softmax", "norm_top_k": True}
    c.ignore("intermediate_size num_experts_per_tok init_method shared_intermediate_size")
    ssm = shared.bamba_ssm(c, design["d_model"]) if "M" in pattern else None
    if ssm is None:
        c.ignore(
            "hidden_act mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand mamba_chunk_size"
        )
        c.ignore("mamba_conv_bias mamba_proj_bias time_step_limit")
    return design | {"layers": {"pattern": pattern}, "attention": attention, "ssm": ssm, "ffn": ffn}


def hymba(c: Fields) -> dict[str, Any]:
    """Attention and Mamba-1 heads in every layer, each branch normed whole, their mean projected;
    some layers reuse keys and values."""
    design = shared.model(c, "rms_norm_eps", 1e-6, tied=True)
    n, d = design["n_layers"], design["d_model"]
    heads = c.count("num_attention_heads")
    shared.silu(c)
    neutral: dict[str, Any] = {
        "kv_weight_reuse": False,
        "memory_tokens_interspersed_every": 0,
        "num_mamba": 1,
        "num_experts": 1,
        "kq_norm": "none",
    }
    for key, value in (
        neutral | {"attn_hidden_size": -1, "kq_head_dim": -1, "kv_reuse_every_i_layer": -1}
    ).items():
        c.must(key, value)
    c.must("mamba_proj_bias", False)
    c.kinds("layer_type", n, {"h": "H", "hybrid": "H"})
    c.ignore(
        "attn_implementation_new calc_logits_for_entire_prompt conv_dim num_experts_per_tok seq_length"
    )
    ssm = shared.mamba1(c) | {"dt_bc_norm": c.flag("mamba_inner_layernorms", True)}
    attention = {
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", heads),
        "head_dim": d // heads,
    }
    attention["v_head_dim"] = ssm["d_ssm"] // heads
    c.must("v_head_dim", attention["v_head_dim"])
    meta = c.count("num_memory_tokens", 0, least=0)
    theta = c.number("rope_theta", 1e4)
    if (
        c.word("rope_type", {"ntk": "ntk", "default": "default"}, "default") == "ntk"
    ):  # a larger theta, once for all lengths
        longer = (
            2
            * c.count("max_position_embeddings", 8192)
            / c.count("orig_max_position_embeddings", 2048)
            - 1
        )
        if longer <= 0 or attention["head_dim"] <= 2:
            raise c.refuse(
                "rope_type",
                "needs max_position_embeddings above half of orig_max_position_embeddings, and heads wider than 2",
            )
        theta *= longer ** (attention["head_dim"] / (attention["head_dim"] - 2))
    attention |= {"rope_theta": theta} if c.flag("rope", True) else shared.NOPE
    c.ignore("orig_max_position_embeddings")
    everywhere, window = c.indices("global_attn_idx", n), c.count("sliding_window")
    reusing = _reusing(c, n)
    axes = {
        "norm": "group",
        "scalar": "none",
        "fusion": "add",
        "value": "separate",
        "out": "joint",
        "whole_norm": True,
    }
    kinds: dict[str, dict[str, Any]] = {
        "G": {"kind": "attention"},
        "W": {"kind": "swa", "window": window, "sink": meta},
        "g": {"kind": "attention", "reuse_kv": True},
        "w": {"kind": "swa", "window": window, "sink": meta, "reuse_kv": True},
    }
    pattern = "".join(
        ("G" if i in everywhere else "W") if i not in reusing else "g" if i in everywhere else "w"
        for i in range(n)
    )
    mixers = {
        key: {"kind": "intra", "attention": kinds[key] | attention, "ssm": ssm} | axes
        for key in kinds
        if key in pattern
    }
    return design | {
        "layers": {"pattern": pattern},
        "mixers": mixers,
        "ffn": shared.gated(c, act="mlp_hidden_act"),
        "meta_tokens": meta,
    }


def _reusing(c: Fields, n_layers: int) -> set[int]:
    """Hymba's layers that take keys and values of the first of their group."""
    groups = c.take("kv_reuse_group", None) or []
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise c.refuse("kv_reuse_group", "must be a list of lists of layer numbers")
    layers = [i for group in groups for i in group]
    if not all(isinstance(i, int) and 0 <= i < n_layers for i in layers) or len(set(layers)) < len(
        layers
    ):
        raise c.refuse("kv_reuse_group", f"must name layers from 0 to {n_layers - 1}, each once")
    if any(group != list(range(group[0], group[0] + len(group))) for group in groups if group):
        raise c.refuse(
            "kv_reuse_group",
            "must be groups of consecutive layers: keys and values are those of the last layer that made some",
        )
    return {i for group in groups for i in group[1:]}


def samba(c: Fields) -> dict[str, Any]:
    """Samba's own config (lit_gpt): Mamba-1 and windows in turn, each with a gated feed-forward."""
    n, d, multiple = c.layers("n_layer"), c.count("n_embd"), c.count("padding_multiple", 512)
    heads = c.count("n_head")
    for key, value in {"bias": False, "parallel_residual": False, "_mlp_class": "LLaMAMLP"}.items():
        c.must(key, value)
    c.must("_norm_class", "FusedRMSNorm", "RMSNorm")
    c.ignore("block_size name nope")
    head_dim = d // heads
    attention = {
        "n_heads": heads,
        "n_kv_heads": c.count("n_query_groups", heads),
        "head_dim": head_dim,
        "rope_theta": 1e4,
    }
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


def phi4flash(c: Fields) -> dict[str, Any]:
    """SambaY: Mamba and windowed differential attention, one full layer, then layers that reuse its
    keys and values and gate the last scan's output (arXiv 2507.06607)."""
    shared.silu(c)
    c.must("lm_head_bias", False)
    design = shared.model(c, "layer_norm_eps", tied=True)
    n, d, ssm = design["n_layers"], design["d_model"], shared.mamba1(c)
    period, window = c.count("mb_per_layer", 2), c.take("sliding_window", 2047)
    c.ignore(
        "resid_pdrop embd_pdrop rope_theta rope_scaling original_max_position_embeddings sliding_window attention_bias"
    )
    c.must("layer_types", None)
    listed = [w for w in window if w is not None] if isinstance(window, list) else [window]
    if not listed or not all(isinstance(w, int) and w > 0 for w in listed) or len(set(listed)) > 1:
        raise c.refuse("sliding_window", "must be one window, in every windowed layer")
    heads = c.count("num_attention_heads")
    attention = {
        "kind": "diff_attention",
        "n_heads": heads,
        "n_kv_heads": c.count("num_key_value_heads", 4),
        "head_dim": d // heads,
    }
    attention |= {
        "position": "nope",
        "qkv_bias": True,
        "out_bias": True,
        "norm": "group",
        "scalar": "diff_t",
        "fusion": "diff",
    }
    attention |= {"shared_norm": True}
    mixers = {
        "W": attention | {"window": listed[0]},
        "G": attention,
        "x": attention | {"reuse_kv": True},
        "g": {"kind": "gated_memory", "d_memory": ssm["d_ssm"], "bias": ssm["proj_bias"]},
    }
    late = n // 2 + 2
    pattern = "".join(
        ("M" if i < late else "g")
        if i % period == 0
        else "x"
        if i >= late
        else "W"
        if i < n // 2
        else "G"
        for i in range(n)
    )
    used = {key: mixer for key, mixer in mixers.items() if key in pattern}
    return design | {
        "layers": {"pattern": pattern},
        "ssm": ssm,
        "mixers": used,
        "ffn": shared.gated(c),
        "norm": "layer",
    }
