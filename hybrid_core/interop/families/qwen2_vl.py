"""Qwen2-VL: its language model, with Vamba's layers for vision tokens if the config has them.

The parameters of the vision tower count. Its states and FLOPs do not, because they depend on the
video, not on the text."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.families import shared, table
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.attention import AttentionMixer

_MODEL = table.model("rms_norm_eps", 1e-6)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = _MODEL.read(c)
    d_model = design["d_model"]
    attention = shared.attention(c, rope_fraction=1.0)
    attention |= {"qkv_bias": True, "out_bias": False}
    c.must("use_sliding_window", False)
    c.ignore("sliding_window max_window_layers")
    design |= {
        "attention": attention,
        "ffn": shared.gated(c),
        "outside_params": _vision_params(c, d_model),
    }
    vamba = c.section("vision_mamba_mixer_config")
    if not vamba.flag("enable"):
        return design | {"layers": {"strategy": "transformer"}}
    vision = _on_vision_tokens(vamba, d_model, attention)
    branches = [{"kind": "attention"} | attention, vision]
    return design | {
        "mixers": {"V": {"kind": "side_by_side", "branches": branches}},
        "layers": {"pattern": "V" * design["n_layers"]},
    }


def _on_vision_tokens(
    v: Fields,
    d_model: int,
    attention: dict[str, Any],
) -> dict[str, Any]:
    """Vamba's part of a layer: text attends to the video tokens, and Mamba-2 updates them."""
    v.must("hidden_dim", d_model)
    v.must("bias", False)
    v.ignore("chunk_size norm_before_gate")
    d_ssm = v.count("expand", 2) * d_model
    d_state = v.count("d_state", 128)
    n_groups = v.count("ngroups", 1)
    n_heads = d_ssm // v.count("headdim", 64)
    channels = d_ssm + 2 * n_groups * d_state
    d_q = attention["n_heads"] * attention["head_dim"]
    d_kv = 2 * attention["n_kv_heads"] * attention["head_dim"]
    d_conv = v.count("d_conv", 4)
    on_text = 2 * d_model * d_q  # queries and output of the cross-attention
    on_video = d_model * d_kv + d_q + d_kv  # its keys and values, and the biases
    on_video += d_model * (d_ssm + channels + n_heads)  # Mamba-2's in_proj
    on_video += d_ssm * d_model  # and its out_proj
    on_video += channels * (d_conv + v.flag("conv_bias", True))
    on_video += 3 * n_heads  # A, D and the bias of dt
    on_video += d_ssm * v.flag("rmsnorm", True)  # the gated norm
    on_video += d_model  # the layer's norm
    v.close()
    return {
        "kind": "declared",
        "name": "cross-attention to video tokens, and Mamba-2 on them",
        "matrix_params": on_text,
        "other_params": on_video,
    }


def _vision_params(c: Fields, d_model: int) -> int:
    """Parameters of Qwen2-VL's vision tower and of its merger into the language model. A patch is 2
    frames of 14 x 14 pixels in 3 colours."""
    v = c.section("vision_config")
    width = v.count("embed_dim", 1280)
    depth = v.count("depth", 32)
    patch = v.count("patch_size", 14)
    inner = v.count("mlp_ratio", 4) * width
    merged = v.count("spatial_merge_size", 2) ** 2 * width
    v.must("hidden_size", d_model)
    v.ignore("hidden_act in_chans in_channels num_heads spatial_patch_size model_type")
    norms = 2 * (width + width)  # two LayerNorms
    attention = 3 * (width + 1) * width + (width + 1) * width  # queries, keys, values; output
    mlp = (width + 1) * inner + (inner + 1) * width
    frames = v.count("temporal_patch_size", 2)
    v.close()
    c.ignore("image_token_id video_token_id vision_token_id")
    c.ignore("vision_start_token_id vision_end_token_id")
    patches = 3 * frames * patch**2 * width
    merger = (
        2 * width  # its LayerNorm
        + (merged + 1) * merged
        + (merged + 1) * d_model
    )
    return patches + depth * (norms + attention + mlp) + merger


FAMILY = Family(
    name="qwen2_vl",
    read=read,
    tables={
        ArchSpec: _MODEL,
        AttentionMixer: table.HEADS | table.HEAD_DIM,
        SwiGLU: table.GATED_BIASED,
    },
)
