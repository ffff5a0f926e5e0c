"""What families of published configs have in common: the model around the layers, attention,
feed-forward, Mamba."""

from math import ceil, inf
from typing import Any

from hybrid_core.interop.fields import Fields

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu2": "relu2",
}

NOPE: dict[str, Any] = {"position": "nope"}


def model(c: Fields, eps_key: str, eps: float = 1e-5, tied: bool = False) -> dict[str, Any]:
    """What stands outside the layers."""
    return {
        "vocab_size": c.count("vocab_size"),
        "tie_embeddings": c.flag("tie_word_embeddings", tied),
        "norm_eps": c.number(eps_key, eps),
        "d_model": c.count("hidden_size"),
        "n_layers": c.layers(),
    }


def silu(c: Fields, key: str = "hidden_act") -> None:
    """Refuse another activation of Mamba's convolution and gate."""
    c.must(key, "silu", "swish")


def attention(
    c: Fields, rope_fraction: float | None = 1.0, theta: float = 10_000.0
) -> dict[str, Any]:
    """Without a `rope_fraction`, no position encoding. `theta`: the class's own, where the config
    has none."""
    biased = c.flag("attention_bias")
    n_heads = c.count("num_attention_heads")
    section = {
        "n_heads": n_heads,
        "n_kv_heads": c.count("num_key_value_heads", n_heads),
        "head_dim": c.count("head_dim", c.count("hidden_size") // n_heads),
        "qkv_bias": biased,
        "out_bias": biased,
    }
    return section | (NOPE if rope_fraction is None else rope(c, rope_fraction, theta))


def rope(c: Fields, fraction: float, theta: float = 10_000.0) -> dict[str, Any]:
    """transformers 5 writes all of it into `rope_parameters`; before, theta stood outside and
    `rope_scaling` held the rest."""
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
        c.constants["rope_scaling"] = {
            key: value for key, value in kept.items() if key not in elsewhere
        }
        return section
    elif kind != "default":
        raise rope.refuse(
            "rope_type" if "rope_type" in rope else "type", "unknown way to scale RoPE"
        )
    rope.close()
    return section


def gated(
    c: Fields, act: str = "hidden_act", width: str = "intermediate_size", bias: str = "mlp_bias"
) -> dict[str, Any]:
    """A gated feed-forward."""
    section = {
        "kind": "swiglu",
        "d_ff": c.count(width),
        "activation": c.word(act, ACTIVATIONS, "silu"),
    }
    return section | {"bias": c.flag(bias)}


FLOAT32_MAX = 3.4028234663852886e38  # dt is computed in float32: a limit from here on binds nothing


def dt_limit(c: Fields, key: str = "time_step_limit") -> dict[str, Any]:
    """The smallest dt, where the field sets one: dt is softplus(dt + bias) clamped to [low, high]
    (mamba_ssm's `dt_limit`).

    A high end that binds is refused. `time_step_min` and `time_step_max` bound the bias when a
    model is initialised, nothing later."""
    limit = c.take(key, None)
    if limit is None:
        return {}
    if not isinstance(limit, list | tuple) or len(limit) != 2:
        raise c.refuse(key, "must be a list of two numbers, the smallest and the largest dt")
    low, high = map(_real, limit)
    if low is None or high is None or not 0 <= low < high:
        raise c.refuse(key, "must be two numbers, from 0, the first below the second")
    if high < FLOAT32_MAX:
        raise c.refuse(key, "dt must have no upper limit: [0, Infinity]")
    return {"dt_min": float(low)} if low else {}


def _real(value: Any) -> float | None:
    """A number; transformers 5 writes infinity as a mapping, since JSON has none. None for what is
    no number."""
    if value == {"__float__": "Infinity"}:
        return inf
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def mamba1(c: Fields) -> dict[str, Any]:
    """The Mamba-1 of Jamba, Zamba, Hymba and Phi-4-mini-flash."""
    d_model = c.count("hidden_size")
    rank = c.take("mamba_dt_rank", "auto")
    return {
        "kind": "mamba1",
        "d_ssm": c.count("mamba_expand", 2) * d_model,
        "d_state": c.count("mamba_d_state", 16),
        "d_conv": c.count("mamba_d_conv", 4),
        "dt_rank": ceil(d_model / 16)
        if rank == "auto"
        else c.count("mamba_dt_rank", ceil(d_model / 16)),
        "proj_bias": c.flag("mamba_proj_bias"),
        "conv_bias": c.flag("mamba_conv_bias", True),
    }


def bamba_ssm(c: Fields, d_model: int, d_state: int | None = None) -> dict[str, Any]:
    """The Mamba-2 of Bamba and Granite."""
    silu(c)
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
    } | dt_limit(c)
