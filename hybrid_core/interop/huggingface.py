"""Hugging Face configs in: a config.json becomes an ArchSpec, without torch. The tensors that belong to it: weights.py.

A family is one function. It takes every field that changes what transformers (5.23) computes for that `model_type`, with the
default that transformers has; whatever is left must be known to change nothing. So a field that nobody thought of is refused by
name instead of giving a model that is almost right.
"""

from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Any

from hybrid_core.spec import ArchSpec, SpecError, short

# Fields that leave a forward pass in float32 as it is: the library's own, those of training and generation, choices among equal
# implementations, and those that no class here reads (Mamba-2 has no rank, its norm follows the gate whatever the field says).
_NO_EFFECT = """
    architectures chunk_size_feed_forward dtype id2label is_encoder_decoder label2id output_attentions output_hidden_states
    problem_type return_dict tokenizer_class torch_dtype transformers_version use_cache
    attention_dropout initializer_range rescale_prenorm_residual z_loss_coefficient
    time_step_floor time_step_init_scheme time_step_max time_step_min time_step_scale
    bos_token_id eos_token_id pad_token_id max_position_embeddings num_logits_to_keep
    pretraining_tp residual_in_fp32 use_associative_scan use_mamba_kernels use_mambapy
    mamba_dt_rank norm_before_gate time_step_rank
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())
REQUIRED = object()


class Fields:
    """A config's fields, of which a family takes those that it understands; `close` refuses what is left."""

    def __init__(self, fields: Mapping[str, Any], prefix: str = "") -> None:
        self._fields = fields
        self._prefix = prefix
        self._taken: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._fields)

    def refuse(self, key: str, rule: str) -> SpecError:
        """The error to raise: key, value, rule."""
        value = short(self._fields[key]) if key in self._fields else "missing"
        return SpecError(f"{self._prefix}{key}: {value} - {rule}")

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The field's value, or the default where there is none."""
        self._taken.add(key)
        value = self._fields.get(key, default)
        if value is REQUIRED:
            raise self.refuse(key, "this field is required")
        return value

    def count(self, key: str, default: Any = REQUIRED) -> int:
        """A positive whole number; null means the default."""
        value = self.take(key, default)
        if value is None and default is not REQUIRED:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(key, "must be a positive whole number")
        return value

    def must(self, key: str, *allowed: Any) -> None:
        """Refuse all values but those allowed; the first of them is also transformers' default."""
        if self.take(key, allowed[0]) not in allowed:
            raise self.refuse(key, f"must be {' or '.join(map(repr, allowed))}")

    def section(self, key: str) -> "Fields":
        """The fields of a field that is a mapping; none where it is absent or null."""
        fields = self.take(key, None)
        if not isinstance(fields, Mapping | None):
            raise self.refuse(key, "must be a mapping")
        return Fields(fields or {}, f"{self._prefix}{key}.")

    def close(self) -> None:
        """Refuse a field that nobody took, unless it is known to change nothing. Names that start with _ are the library's own."""
        for key in self._fields:
            if key not in self._taken | NO_EFFECT and not key.startswith("_"):
                raise self.refuse(key, "unknown field, which may change what the model computes")


# ---------------------------------------------------------------- what families share


def _model(c: Fields, eps_key: str, eps: float = 1e-5, tied: bool = False) -> dict[str, Any]:
    """What stands outside the layers. The activation is Mamba's too: of the convolution and of the gate."""
    c.must("hidden_act", "silu")
    return {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": c.take("tie_word_embeddings", tied),
        "norm_eps": c.take(eps_key, eps),
        "d_model": c.count("hidden_size"),
        "n_layers": c.count("num_hidden_layers"),
    }


def _attention(c: Fields, n_kv_heads: int | None = None, rope_fraction: float = 1.0) -> dict[str, Any]:
    c.must("attention_bias", False)
    n_heads = c.count("num_attention_heads")
    return {
        "n_heads": n_heads,
        "n_kv_heads": c.count("num_key_value_heads", n_kv_heads or n_heads),
        "head_dim": c.count("head_dim", c.count("hidden_size") // n_heads),
        **_rope(c, rope_fraction),
    }


def _rope(c: Fields, fraction: float) -> dict[str, Any]:
    """transformers 5 writes all of it into `rope_parameters`; before, theta stood outside and `rope_scaling` held the rest."""
    c.must("partial_rotary_factor", fraction)
    new, old = c.section("rope_parameters"), c.section("rope_scaling")
    rope = old or new  # as transformers prefers
    for key in ("rope_type", "type"):
        rope.must(key, "default", "llama3")
    section = {
        "rope_theta": rope.take("rope_theta", c.take("rope_theta", 10_000.0)),
        "rope_fraction": rope.take("partial_rotary_factor", fraction),
    }
    if "llama3" in (rope.take("rope_type", None), rope.take("type", None)):
        section["rope_scaling"] = {
            "factor": rope.take("factor"),
            "low_freq_factor": rope.take("low_freq_factor"),
            "high_freq_factor": rope.take("high_freq_factor"),
            "original_context_len": rope.take("original_max_position_embeddings"),
        }
    rope.close()
    return section


def _ffn(c: Fields) -> dict[str, Any]:
    c.must("mlp_bias", False)
    return {"kind": "swiglu", "d_ff": c.count("intermediate_size")}


def _unlimited_dt(c: Fields) -> None:
    """Refuse a clamp of dt. transformers 5 writes infinity as a mapping."""
    if c.take("time_step_limit", None) not in (None, (0.0, inf), [0.0, inf], [0.0, {"__float__": "Infinity"}]):
        raise c.refuse("time_step_limit", "dt must be unlimited: [0, Infinity]")


# ---------------------------------------------------------------- families


def _llama(c: Fields) -> dict[str, Any]:
    return _model(c, "rms_norm_eps", 1e-6) | {"layers": {"strategy": "transformer"}, "attention": _attention(c), "ffn": _ffn(c)}


def _mistral(c: Fields) -> dict[str, Any]:
    design = _model(c, "rms_norm_eps", 1e-6) | {"attention": _attention(c, n_kv_heads=8), "ffn": _ffn(c)}
    if c.take("sliding_window", 4096) is None:
        return design | {"layers": {"strategy": "transformer"}}
    if "rope_scaling" in design["attention"]:
        raise c.refuse("sliding_window", "must be null where RoPE is scaled: windowed layers have no scaling here")
    swa = {"window": c.count("sliding_window", 4096), "sink": 0, "rope_theta": design["attention"]["rope_theta"]}
    return design | {"layers": {"strategy": "swa", "ratio": "0:1"}, "swa": swa}


def _mamba(c: Fields) -> dict[str, Any]:
    c.must("use_bias", False)
    c.must("use_conv_bias", True)
    d_model = c.count("hidden_size")
    auto_rank = ceil(d_model / 16)
    ssm = {
        "kind": "mamba1",
        "d_ssm": c.count("intermediate_size", d_model * c.count("expand", 2)),
        "d_state": c.count("state_size", 16),
        "d_conv": c.count("conv_kernel", 4),
        "dt_rank": auto_rank if c.take("time_step_rank", "auto") == "auto" else c.count("time_step_rank"),
    }
    return _model(c, "layer_norm_epsilon", tied=True) | {"layers": {"strategy": "mamba"}, "ssm": ssm}


def _mamba2(c: Fields) -> dict[str, Any]:
    c.must("use_bias", False)
    c.must("use_conv_bias", True)
    _unlimited_dt(c)
    ssm = {
        "d_ssm": c.count("num_heads") * c.count("head_dim"),
        "head_dim": c.count("head_dim"),
        "d_state": c.count("state_size"),
        "d_conv": c.count("conv_kernel", 4),
        "n_groups": c.count("n_groups"),
        "chunk_size": c.count("chunk_size", 256),
    }
    c.must("expand", ssm["d_ssm"] / c.count("hidden_size"))
    c.must("intermediate_size", ssm["d_ssm"])
    c.must("rms_norm", True)
    return _model(c, "layer_norm_epsilon") | {"layers": {"strategy": "mamba"}, "ssm": ssm}


def _bamba(c: Fields) -> dict[str, Any]:
    c.must("mamba_proj_bias", False)
    c.must("mamba_conv_bias", True)
    _unlimited_dt(c)
    design = _model(c, "rms_norm_eps") | {"attention": _attention(c, n_kv_heads=8, rope_fraction=0.5), "ffn": _ffn(c)}
    n_heads, d_ssm = c.count("mamba_n_heads"), c.count("mamba_expand", 2) * design["d_model"]
    ssm = {
        "d_ssm": d_ssm,
        "head_dim": d_ssm // n_heads,
        "d_state": c.count("mamba_d_state"),
        "d_conv": c.count("mamba_d_conv", 4),
        "n_groups": c.count("mamba_n_groups", 1),
        "chunk_size": c.count("mamba_chunk_size", 256),
    }
    c.must("mamba_d_head", "auto", ssm["head_dim"])
    c.must("attn_rotary_emb", round(design["attention"]["head_dim"] * design["attention"]["rope_fraction"]))
    attention_at = c.take("attn_layer_indices", None) or []
    if not isinstance(attention_at, list):
        raise c.refuse("attn_layer_indices", "must be a list")
    pattern = "".join("A" if i in attention_at else "M" for i in range(design["n_layers"]))
    return design | {"layers": {"pattern": pattern}, "ssm": ssm}


FAMILIES: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "bamba": _bamba,
}


def spec_from_config(config: Mapping[str, Any], name: str | None = None) -> ArchSpec:
    """The design of a config.json, called `name`, or else by its model_type. Raises SpecError with one line."""
    fields = Fields(config)
    fields.must("model_type", *FAMILIES)
    family = fields.take("model_type")
    design = FAMILIES[family](fields)
    fields.close()
    return ArchSpec.from_mapping({"schema": 1, "name": name or family} | design)
