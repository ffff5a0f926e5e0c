"""Designs as a Llama 3 of torchtitan 0.3.0, and back.

The reader applies torchtitan's fixed choices, so the design that it reads back is the one that
would run. Remarks on torchtitan's other models refer to its main branch at b5bcd76 (2026-08-21)."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.validation import SpecError

# Llama 3's scaling of RoPE: torchtitan's names -> ours
_SCALING = {
    "scaling_factor": "factor",
    "original_max_position_embeddings": "original_context_len",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
}


def to_torchtitan(spec: ArchSpec) -> dict[str, Any]:
    """The sizes that configure torchtitan's Llama 3. Raises SpecError for other designs.

    torchtitan also has gpt_oss (windows) and Qwen3.5 (Gated DeltaNet), which are not exported."""
    for layer in spec.stack:
        if type(layer.mixer) is not AttentionMixer:
            rule = "the export is torchtitan 0.3's Llama 3, whose layers all have full attention"
            raise SpecError(f"{layer.mixer.kind} - {rule}")
    attention = first_of(spec, AttentionMixer)
    ffn = first_of(spec, SwiGLU)
    if ffn is None:
        rule = "torchtitan's Llama 3 has no other kind"
        raise SpecError(f"ffn: not dense and gated in every layer - {rule}")
    return {
        "dim": spec.d_model,
        "n_layers": spec.n_layers,
        "vocab_size": spec.vocab_size,
        "tied": spec.tie_embeddings,
        "n_heads": attention.n_heads,
        "n_kv_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_dim": ffn.d_ff,
        "norm_eps": spec.norm_eps,
        "qk_norm": attention.qk_norm,
        "rope": _rope(attention),
    }


def _rope(attention: AttentionMixer) -> dict[str, Any]:
    rope: dict[str, Any] = {"theta": attention.rope_theta}
    scaling = attention.rope_scaling
    if scaling:
        rope["scaling"] = "llama"
        for theirs, ours in _SCALING.items():
            rope[theirs] = getattr(scaling, ours)
    return rope


def from_torchtitan(sizes: dict[str, Any]) -> dict[str, Any]:
    """The design of a Llama 3 with these sizes."""
    rope = sizes["rope"]
    attention = {
        "n_heads": sizes["n_heads"],
        "n_kv_heads": sizes["n_kv_heads"],
        "head_dim": sizes["head_dim"],
        "qk_norm": sizes["qk_norm"],
        "rope_theta": rope["theta"],
    }
    if "scaling" in rope:
        scaling = {ours: rope[theirs] for theirs, ours in _SCALING.items()}
        attention["rope_scaling"] = scaling
    return {
        "vocab_size": sizes["vocab_size"],
        "tie_embeddings": sizes["tied"],
        "norm_eps": sizes["norm_eps"],
        "d_model": sizes["dim"],
        "n_layers": sizes["n_layers"],
        "layers": {"strategy": "transformer"},
        "attention": attention,
        "ffn": {"kind": "swiglu", "d_ff": sizes["hidden_dim"]},
    }


TORCHTITAN = """from functools import partial

from torch import nn
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.config_utils import (
    get_attention_config,
    make_ffn_config,
    make_gqa_config,
)
from torchtitan.models.common.param_init import depth_scaled_std
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock


def model_config(attn_backend: str = "flex", max_seq_len: int = 8192) -> Llama3Model.Config:
    def norm(width: int) -> RMSNorm.Config:
        return RMSNorm.Config(
            normalized_shape=width,
            eps=norm_eps,
            param_init={"weight": nn.init.ones_},
        )

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
                dim=dim,
                hidden_dim=hidden_dim,
                w1_param_init=normal(0.02),
                w2w3_param_init=normal(depth_scaled_std(0.02, i)),
            ),
        )

    embedding = {"weight": partial(nn.init.normal_, std=1.0)}
    return Llama3Model.Config(
        dim=dim,
        vocab_size=vocab_size,
        enable_weight_tying=tied,
        tok_embeddings=Embedding.Config(
            num_embeddings=vocab_size,
            embedding_dim=dim,
            param_init=embedding,
        ),
        norm=norm(dim),
        lm_head=Linear.Config(
            in_features=dim,
            out_features=vocab_size,
            param_init=normal(dim**-0.5),
        ),
        layers=[layer(i) for i in range(n_layers)],
    )
"""


def torchtitan_text(spec: ArchSpec, sizes: dict[str, Any]) -> str:
    """Python source of a function that builds the config, for torchtitan's model registry."""
    values = "\n".join(f"{key} = {value!r}" for key, value in sizes.items())
    code = TORCHTITAN.replace("\n\n\ndef model_config", f"\n\n{values}\n\n\ndef model_config")
    return f"# {spec.name}: a Llama 3 of torchtitan 0.3.\n{code}"
