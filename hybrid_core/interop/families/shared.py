"""Readers shared by families: attention, RoPE, feed-forward, Mamba. Each turns fields of a config
into a section of our design."""

from math import ceil, inf
from typing import Any

from hybrid_core.interop.families import table
from hybrid_core.interop.families.table import Section
from hybrid_core.interop.fields import Fields, is_real

NOPE: Section = {"position": "nope"}

# Names of layers in configs -> letters of a pattern: for hybrids of attention and Mamba,
HYBRID = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "A",
    "full_attention": "A",
    "hybrid": "Z",
}
# for windowed and full attention,
WINDOWED = {
    "sliding_attention": "S",
    "full_attention": "A",
    "attention": "A",
}
# and for attention and a kind of layer that only this family has (R).
LINEAR = {
    "linear_attention": "R",
    "conv": "R",
    "recurrent": "R",
    "full_attention": "A",
    "attention": "A",
    "sliding_attention": "A",
}


def used(kinds: dict[str, Section], pattern: str) -> dict[str, Section]:
    """The kinds whose letter is in the pattern."""
    return {letter: kind for letter, kind in kinds.items() if letter in pattern}


def silu(c: Fields, key: str = "hidden_act") -> None:
    """Reject any activation except SiLU for Mamba's convolution and gate."""
    c.must(key, "silu", "swish")


def attention(
    c: Fields,
    rope_fraction: float | None = 1.0,
    theta: float = 10_000.0,
) -> Section:
    """Attention with RoPE, or without a position encoding if `rope_fraction` is None. `theta`: the
    class's default."""
    n_heads = c.count("num_attention_heads")
    section = table.ATTENTION.read(
        c,
        n_kv_heads=n_heads,
        head_dim=c.count("hidden_size") // n_heads,
    )
    if rope_fraction is None:
        return section | NOPE
    return section | rope(c, rope_fraction, theta)


# RoPE scalings that change values but no cost. A design keeps them as constants.
KEPT_SCALINGS = ("linear", "dynamic", "yarn", "longrope", "mrope", "ntk")


def rope(c: Fields, fraction: float, theta: float = 10_000.0) -> Section:
    """RoPE. transformers 5 writes all of it into `rope_parameters`. Older configs have a separate
    `rope_theta` and the rest in `rope_scaling`."""
    c.must("partial_rotary_factor", fraction)
    new = c.section("rope_parameters")
    old = c.section("rope_scaling")
    fields = old or new  # as transformers prefers
    outer_theta = c.number("rope_theta", theta)
    section: Section = {
        "rope_theta": fields.number("rope_theta", outer_theta),
        "rope_fraction": fields.number("partial_rotary_factor", fraction),
    }
    older_kind = fields.take("type", None)
    kind = fields.take("rope_type", None) or older_kind or "default"
    if kind in KEPT_SCALINGS:
        kept = c.take("rope_scaling", None) or c.take("rope_parameters")
        c.constants["rope_scaling"] = _without_theta(kept)
        return section
    if kind == "llama3":
        section["rope_scaling"] = _llama3_scaling(fields)
    elif kind != "default":
        key = "rope_type" if "rope_type" in fields else "type"
        raise fields.refuse(key, "unknown RoPE scaling")
    fields.close()
    return section


def _llama3_scaling(fields: Fields) -> Section:
    return {
        "factor": fields.number("factor", 8.0),
        "low_freq_factor": fields.number("low_freq_factor", 1.0),
        "high_freq_factor": fields.number("high_freq_factor", 4.0),
        "original_context_len": fields.count("original_max_position_embeddings"),
    }


def _without_theta(scaling: Section) -> Section:
    elsewhere = ("rope_theta", "partial_rotary_factor")
    return {key: value for key, value in scaling.items() if key not in elsewhere}


def gated(c: Fields) -> Section:
    """A gated feed-forward."""
    return {"kind": "swiglu"} | table.GATED_BIASED.read(c)


FLOAT32_MAX = 3.4028234663852886e38  # dt is float32, so this limit or a higher one has no effect


def dt_limit(c: Fields, key: str = "time_step_limit") -> Section:
    """The smallest dt, if the field sets one. Mamba-2 clamps softplus(dt + bias) to [low, high]
    (mamba_ssm's `dt_limit`).

    An upper limit that has an effect is rejected. `time_step_min` and `time_step_max` only limit
    the bias when a model is initialised."""
    limit = c.take(key, None)
    if limit is None:
        return {}
    if not isinstance(limit, list | tuple) or len(limit) != 2:
        raise c.refuse(key, "must be a list of two numbers, the smallest and the largest dt")
    low, high = map(_real, limit)
    if low is None or high is None or not 0 <= low < high:
        raise c.refuse(key, "must be two non-negative numbers, the first below the second")
    if high < FLOAT32_MAX:
        raise c.refuse(key, "dt must have no upper limit: [0, Infinity]")
    return {"dt_min": float(low)} if low else {}


def _real(value: Any) -> float | None:
    """The value if it is a number, else None. JSON has no infinity, so transformers 5 writes
    infinity as a mapping."""
    if value == {"__float__": "Infinity"}:
        return inf
    return value if is_real(value) else None


def dt_rank(
    c: Fields,
    key: str,
    d_model: int,
    null_is_auto: bool = False,
) -> int:
    """The rank of Mamba-1's dt: a number, or "auto" for d_model / 16, rounded up."""
    value = c.take(key, "auto")
    if value == "auto" or (value is None and null_is_auto):
        return ceil(d_model / 16)
    return c.count(key)


def mamba1(c: Fields) -> Section:
    """The Mamba-1 of Jamba, Zamba, Hymba and Phi-4-mini-flash."""
    d_model = c.count("hidden_size")
    return table.MAMBA1.read(c) | {
        "kind": "mamba1",
        "d_ssm": c.count("mamba_expand", 2) * d_model,
        "dt_rank": dt_rank(c, "mamba_dt_rank", d_model, null_is_auto=True),
    }


def bamba_ssm(c: Fields, d_model: int) -> Section:
    """The Mamba-2 of Bamba and Granite."""
    silu(c)
    n_heads = c.count("mamba_n_heads", 128)
    d_ssm = c.count("mamba_expand", 2) * d_model
    if d_ssm % n_heads:
        raise c.refuse("mamba_n_heads", f"must divide mamba_expand * hidden_size ({d_ssm})")
    c.must("mamba_d_head", "auto", d_ssm // n_heads)
    section = table.MAMBA2.read(c) | {
        "d_ssm": d_ssm,
        "head_dim": d_ssm // n_heads,
    }
    return section | dt_limit(c)
