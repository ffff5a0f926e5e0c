"""Published models of state-space layers alone."""

from math import ceil
from typing import Any

from hybrid_core.interop.families import shared
from hybrid_core.interop.fields import Fields, at


def mamba(c: Fields) -> dict[str, Any]:
    """Mamba-1 alone in every layer."""
    shared.silu(c)
    d_model = c.count("hidden_size")
    auto_rank = ceil(d_model / 16)
    c.count("expand", 2)  # intermediate_size wins over it
    ssm = {
        "kind": "mamba1",
        "d_ssm": c.count("intermediate_size", d_model * c.count("expand", 2)),
        "d_state": c.count("state_size", 16),
        "d_conv": c.count("conv_kernel", 4),
        "dt_rank": auto_rank
        if c.take("time_step_rank", "auto") == "auto"
        else c.count("time_step_rank"),
        "proj_bias": c.flag("use_bias"),
        "conv_bias": c.flag("use_conv_bias", True),
    }
    return shared.model(c, "layer_norm_epsilon", tied=True) | {
        "layers": {"strategy": "mamba"},
        "ssm": ssm,
    }


def falcon_mamba(c: Fields) -> dict[str, Any]:
    """Mamba with norms of dt, B and C that have no weights."""
    design = mamba(c)
    c.ignore("use_falcon_mambapy")
    eps = c.number("mixer_rms_eps", 1e-6)
    return design | {
        "ssm": design["ssm"] | {"dt_bc_norm": True, "dt_bc_weight": False, "dt_bc_eps": eps}
    }


def mamba2(c: Fields) -> dict[str, Any]:
    """Mamba-2 alone in every layer."""
    shared.silu(c)
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
    } | shared.dt_limit(c)
    c.must("expand", ssm["d_ssm"] / c.count("hidden_size"))
    c.must("intermediate_size", ssm["d_ssm"])
    c.must("rms_norm", True, None)
    return shared.model(c, "layer_norm_epsilon") | {"layers": {"strategy": "mamba"}, "ssm": ssm}


def mamba_ssm(c: Fields) -> dict[str, Any]:
    """mamba_ssm's own config: the vocabulary is padded, and attention layers stand where it
    says."""
    d, n, multiple = c.count("d_model"), c.layers("n_layer"), c.count("pad_vocab_size_multiple", 8)
    s, a = c.section("ssm_cfg"), c.section("attn_cfg")
    if s.word("layer", {"Mamba1": "mamba1", "Mamba2": "mamba2"}, "Mamba1") == "mamba1":
        rank = s.take("dt_rank", "auto")
        ssm = {
            "kind": "mamba1",
            "d_state": s.count("d_state", 16),
            "dt_rank": ceil(d / 16) if rank == "auto" else s.count("dt_rank"),
        }
        ssm |= {"proj_bias": s.flag("bias")}
    else:
        ssm = {
            "d_state": s.count("d_state", 128),
            "head_dim": s.count("headdim", 64),
            "n_groups": s.count("ngroups", 1),
        }
        ssm |= {
            "chunk_size": s.count("chunk_size", 256),
            "gated_norm": s.flag("rmsnorm", True),
            "norm_first": s.flag("norm_before_gate"),
        }
        ssm |= {"in_bias": s.flag("bias"), "out_bias": s.flag("bias")}
    ssm |= {
        "d_ssm": s.count("expand", 2) * d,
        "d_conv": s.count("d_conv", 4),
        "conv_bias": s.flag("conv_bias", True),
    }
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
        section = {
            "n_heads": heads,
            "n_kv_heads": a.count("num_heads_kv", heads),
            "head_dim": head_dim,
        }
        section |= {
            "qkv_bias": a.flag("qkv_proj_bias", True),
            "out_bias": a.flag("out_proj_bias", True),
        }
        theta = a.number("rotary_emb_base", 10_000.0)
        design["attention"] = section | (
            {"rope_theta": theta, "rope_fraction": rotated / head_dim} if rotated else shared.NOPE
        )
        a.close()
    return design | {"layers": {"pattern": at(n, attention_at, "A", "M")}}
