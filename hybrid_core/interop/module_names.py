"""Module names in published checkpoints, by the matrix of a design that they hold."""

from hybrid_core.design.stack import Layer
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU

Places = dict[str, tuple[str, ...]]  # a matrix -> the modules that may hold it

# ---------------------------------------------------------------- tables


def _heads(module: str, fused: str = "qkv_proj") -> Places:
    """The projections of attention. Queries, keys and values are three matrices or one. The output
    gate is part of the query matrix."""
    places: Places = {}
    for part in "qkv":
        places[part] = (f"{module}.{part}_proj", f"{module}.{fused}")
    places["output_gate"] = (f"{module}.q_proj",)
    places["out"] = (f"{module}.o_proj", f"{module}.out_proj")
    return places


def _both(one: Places, other: Places) -> Places:
    """The places of both tables."""
    found: Places = {}
    for part in one | other:
        found[part] = one.get(part, ()) + other.get(part, ())
    return found


def _inside(name: str, places: Places) -> Places:
    """The matrices of a part of a mixer, prefixed with the name of the part."""
    return {f"{name}{part}": modules for part, modules in places.items()}


def _scan(*modules: str) -> Places:
    places: Places = {}
    for part in ("in_proj", "x_proj", "dt_proj", "out"):
        name = "out_proj" if part == "out" else part
        places[part] = tuple(f"{module}.{name}" for module in modules)
    return places


def _ways(places: str, **named: str) -> Places:
    """Gate, up and down of a feed-forward under each of the usual paths. `named`: full names that
    some checkpoints use instead."""
    found: Places = {}
    for way in ("gate", "up", "down"):
        names = ["down_proj"] if way == "down" else [f"{way}_proj", "gate_up_proj"]
        below = [f"{place}.{name}" for place in places.split() for name in names]
        below += named.get(way, "").split()
        found[way] = tuple(below)
    return found


_ATTENTION = _both(_heads("self_attn"), _heads("mixer"))
_SSM = _scan("mamba", "mixer")
_MAMBA2 = {part: _SSM[part] for part in ("in_proj", "out")}
_BLOCKS = ("shared_transf", "shared_transformer")  # of Zamba and Zamba2
_BLOCK = _both(_heads(f"{_BLOCKS[0]}.self_attn"), _heads(f"{_BLOCKS[1]}.self_attn"))
del _BLOCK["output_gate"]
_BLOCK_FFN = _ways(" ".join(f"{block}.feed_forward" for block in _BLOCKS))
_MIXTRAL = "block_sparse_moe.experts.0"
_GRANITE = "block_sparse_moe"
_IN = "input_linear"  # Granite's gate and up
_OUT = "output_linear"  # and its down

# kind of mixer -> its matrices -> the modules that hold them, below the layer's own name
MIXERS: dict[str, Places] = {
    "attention": _ATTENTION,
    "swa": _ATTENTION,
    "diff_attention": _ATTENTION,
    "mla": {
        "q": ("self_attn.q_proj",),
        "q_a": ("self_attn.q_a_proj",),
        "q_b": ("self_attn.q_b_proj",),
        "kv_a": ("self_attn.kv_a_proj_with_mqa",),
        "kv_b": ("self_attn.kv_b_proj",),
        "out": ("self_attn.o_proj",),
    },
    "mamba2": _MAMBA2,
    "diff_mamba2": _MAMBA2,
    "mamba1": _SSM,
    "intra": _both(_ATTENTION, _scan("mamba")),
    "gated_deltanet": {
        "in_proj": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
        "decay, step": ("linear_attn.in_proj_ba", "linear_attn.in_proj_a", "linear_attn.in_proj_b"),
        "out": ("linear_attn.out_proj",),
    },
    "kda": {
        "in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "gates": (
            "self_attn.f_a_proj",
            "self_attn.f_b_proj",
            "self_attn.g_a_proj",
            "self_attn.g_b_proj",
        ),
        "step": ("self_attn.b_proj",),
        "out": ("self_attn.o_proj",),
    },
    "rg_lru": {
        "in_proj": ("temporal_block.linear_x", "temporal_block.linear_y"),
        "out": ("temporal_block.linear_out",),
    },
    "short_conv": {"in_proj": ("conv.in_proj",), "out": ("conv.out_proj",)},
    "gated_memory": {"in_proj": ("attn.in_proj",), "out": ("attn.out_proj",)},
    "shared_block": {
        **_inside("block ", _BLOCK),
        **_inside("block ffn.", _BLOCK_FFN),
        "adapters": tuple(f"{block}.feed_forward.gate_up_proj_adapter_list" for block in _BLOCKS),
        "linear": ("linear",),
        **_inside("ssm ", _scan("mamba_decoder.mamba")),
    },
    "side_by_side": _both(_ATTENTION, _SSM) | {"matrices": ("cross_attn",)},
    "declared": {"matrices": ()},
}
FEED_FORWARD: dict[str, Places] = {
    "ffn": _ways(
        "mlp feed_forward mixer",
        gate=f"feed_forward.w1 shared_mlp.{_IN}",
        up=f"feed_forward.w3 shared_mlp.{_IN}",
        down=f"feed_forward.w2 shared_mlp.{_OUT}",
    ),
    "experts": _ways(
        f"""mlp.experts.0 mixer.experts.0 feed_forward.experts.0 mlp.experts mlp.switch_mlp
        {_MIXTRAL}""",
        gate=f"{_MIXTRAL}.w1 {_GRANITE}.{_IN}",
        up=f"{_MIXTRAL}.w3 {_GRANITE}.{_IN}",
        down=f"{_MIXTRAL}.w2 {_GRANITE}.{_OUT}",
    ),
    "shared": _ways(
        f"""mlp.shared_expert mlp.shared_experts mixer.shared_experts
        {_GRANITE}.shared_experts""",
        gate=f"shared_mlp.{_IN}",
        up=f"shared_mlp.{_IN}",
        down=f"shared_mlp.{_OUT}",
    ),
}
_ROUTERS = f"""
    mlp.gate mlp.router {_GRANITE}.gate {_GRANITE}.router.layer mixer.gate feed_forward.router
"""
WHOLE: Places = {
    "router": tuple(_ROUTERS.split()),
    "latent": ("mixer.fc1_latent_proj", "mixer.fc2_latent_proj"),
}
ROOTS = (
    "model.layers",
    "backbone.layers",
    "model.language_model.layers",
    "language_model.model.layers",
)
OUTSIDE: Places = {
    "embedding": (
        "model.embed_tokens",
        "backbone.embeddings",
        "model.language_model.embed_tokens",
        "language_model.model.embed_tokens",
    ),
    "head": ("lm_head", "language_model.lm_head"),
}


# ---------------------------------------------------------------- of a layer


def parts_of(layer: Layer) -> Places:
    """The matrices of a layer by name (`attention.q`), with the modules that may hold each."""
    kind = layer.mixer.kind
    found = _inside(f"{kind}.", MIXERS.get(kind, {}))
    for option, part in (("output_gate", "output_gate"), ("adapter_rank", "adapters")):
        if not getattr(layer.mixer, option, True):
            found.pop(f"{kind}.{part}", None)
    return found | _feed_forward(layer)


def _feed_forward(layer: Layer) -> Places:
    ffn = layer.ffn
    if ffn is None:
        return {}
    if not isinstance(ffn, MoE):
        return _named("ffn", isinstance(ffn, SwiGLU))
    found = {"router": WHOLE["router"]} | _named("experts", ffn.gated)
    if ffn.shared_width:
        found |= _named("shared", ffn.gated)
    if ffn.d_latent:
        found["latent"] = WHOLE["latent"]
    return found


def _named(name: str, gated: bool) -> Places:
    places = dict(FEED_FORWARD[name])
    if not gated:
        del places["gate"]
    return _inside(f"{name}.", places)
