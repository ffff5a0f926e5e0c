"""What published checkpoints call the modules behind a design's matrices, and lists of modules as
their configs write them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import Any

from hybrid_core.design.stack import Layer
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.validation import SpecError, short

Places = dict[str, tuple[str, ...]]

# ---------------------------------------------------------------- the modules behind a matrix


def _heads(module: str, fused: str = "qkv_proj") -> Places:
    """Queries, keys and values of a module, alone or in one matrix; the output gate comes out of
    the queries'."""
    alone = {part: (f"{module}.{part}_proj", f"{module}.{fused}") for part in "qkv"}
    return alone | {
        "output_gate": (f"{module}.q_proj",),
        "out": (f"{module}.o_proj", f"{module}.out_proj"),
    }


def _both(one: Places, other: Places) -> Places:
    """The places of either."""
    return {part: (*one.get(part, ()), *other.get(part, ())) for part in one | other}


def _scan(*modules: str) -> Places:
    names = {"in_proj": "in_proj", "x_proj": "x_proj", "dt_proj": "dt_proj", "out": "out_proj"}
    return {part: tuple(f"{module}.{name}" for module in modules) for part, name in names.items()}


def _ways(places: str, **named: str) -> Places:
    """Gate, up and down of a feed-forward in each of the places; `named`: what a place calls them
    otherwise."""
    found = {}
    for way in ("gate", "up", "down"):
        names = ["down_proj"] if way == "down" else [f"{way}_proj", "gate_up_proj"]
        below = [f"{place}.{name}" for place in places.split() for name in names]
        found[way] = (*below, *named.get(way, "").split())
    return found


_ATTENTION = _both(_heads("self_attn"), _heads("mixer"))
_SSM = _scan("mamba", "mixer")
_MAMBA2 = {part: _SSM[part] for part in ("in_proj", "out")}
_BLOCKS = ("shared_transf", "shared_transformer")  # of Zamba and Zamba2
_BLOCK = _both(_heads(f"{_BLOCKS[0]}.self_attn"), _heads(f"{_BLOCKS[1]}.self_attn"))
_BLOCK_FFN = _ways(" ".join(f"{block}.feed_forward" for block in _BLOCKS))
_MIXTRAL = {
    "gate": "block_sparse_moe.experts.0.w1",
    "up": "block_sparse_moe.experts.0.w3",
    "down": "block_sparse_moe.experts.0.w2",
}
_IN, _OUT = "input_linear", "output_linear"  # Granite's: the way in with its gate, the way out

# kind of mixer -> its matrices -> where published models keep them, behind the layer's own name
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
        **{f"block {part}": modules for part, modules in _BLOCK.items() if part != "output_gate"},
        **{f"block ffn.{way}": modules for way, modules in _BLOCK_FFN.items()},
        "adapters": tuple(f"{block}.feed_forward.gate_up_proj_adapter_list" for block in _BLOCKS),
        "linear": ("linear",),
        **{f"ssm {part}": modules for part, modules in _scan("mamba_decoder.mamba").items()},
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
        "mlp.experts.0 mixer.experts.0 feed_forward.experts.0 mlp.experts mlp.switch_mlp block_sparse_moe.experts.0",
        gate=f"{_MIXTRAL['gate']} block_sparse_moe.{_IN}",
        up=f"{_MIXTRAL['up']} block_sparse_moe.{_IN}",
        down=f"{_MIXTRAL['down']} block_sparse_moe.{_OUT}",
    ),
    "shared": _ways(
        "mlp.shared_expert mlp.shared_experts mixer.shared_experts block_sparse_moe.shared_experts",
        gate=f"shared_mlp.{_IN}",
        up=f"shared_mlp.{_IN}",
        down=f"shared_mlp.{_OUT}",
    ),
}
_ROUTERS = "mlp.gate mlp.router block_sparse_moe.gate block_sparse_moe.router.layer mixer.gate feed_forward.router"
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


def parts_of(layer: Layer) -> Places:
    """The matrices of a layer by the names of their parts, with the modules behind each."""
    kind = layer.mixer.kind
    found = {f"{kind}.{part}": modules for part, modules in MIXERS.get(kind, {}).items()}
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
    return found | ({"latent": WHOLE["latent"]} if ffn.d_latent else {})


def _named(name: str, gated: bool) -> Places:
    return {
        f"{name}.{way}": modules
        for way, modules in FEED_FORWARD[name].items()
        if gated or way != "gate"
    }


# ---------------------------------------------------------------- lists of modules, as configs write them

MOST_PATTERNS = (
    2_000  # names with * and expressions; names as they are may be as many as the file holds
)


class Modules:
    """Names of modules, names with *, and regular expressions behind `re:`. A name also stands for
    what is below it, and a part of a path for every path that holds it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._of_layer: dict[str, list[str]] = defaultdict(
            list
        )  # names with *, by the layer that they are about; "" is any
        self._expressions: list[Any] = []
        for name in names:
            self._add(name)
        patterns = sum(map(len, self._of_layer.values())) + len(self._expressions)
        if patterns > MOST_PATTERNS:
            raise SpecError(
                f"quantization_config: {patterns:,} patterns - there may be {MOST_PATTERNS:,} at most"
            )
        self._globs = {
            layer: re.compile("|".join(f"(?:{glob})" for glob in globs))
            for layer, globs in self._of_layer.items()
        }

    def _add(self, name: str) -> None:
        if name.startswith("re:"):
            self._expressions.append(linear_time_regex(name[3:]))
        elif set("*?[") & set(name):
            numbered = re.match(r"[^*?\[]*?layers\.(\d+)\.", name)
            self._of_layer[numbered[1] if numbered else ""] += [
                translate(name),
                translate(f"{name}.*"),
            ]
        else:
            self._names.add(name)

    def hold(self, number: int | None, modules: Iterable[str]) -> bool:
        """Whether the list speaks of one of these modules of a layer (numbered from 0), or of one
        outside the layers (None)."""
        return any(self._hold(number, module) for module in modules)

    def _hold(self, number: int | None, module: str) -> bool:
        paths = [module] if number is None else [f"{root}.{number}.{module}" for root in ROOTS]
        if self._names and any(not self._names.isdisjoint(_runs(path)) for path in paths):
            return True
        for layer in ("", str(number)):
            globs = self._globs.get(layer)
            if globs and any(globs.match(path) for path in paths):
                return True
        return any(expression.match(path) for expression in self._expressions for path in paths)


def _runs(path: str) -> Iterator[str]:
    """Every run of components of a dotted path."""
    parts = path.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])


def linear_time_regex(text: str) -> Any:
    """A regular expression from a stranger's file, which no text takes long to fail on (RE2).
    Raises SpecError."""
    import re2  # loaded where a config has one

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    try:
        return re2.compile(text, options)
    except re2.error:
        raise SpecError(
            f"quantization_config: {short(text)} - not a regular expression that can be searched with"
        ) from None
