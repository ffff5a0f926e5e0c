"""Designs for the tests: a factory of small ones, all combinations of intra-hybrid axes, random
ones, and the paper's rows."""

import itertools
from typing import Any, NamedTuple, get_args

import pandas as pd
import pytest
import yaml
from hypothesis import strategies as st

from hybrid_core.design import placement, presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.mixers import fusion as schema
from hybrid_core.mixers.registry import MIXERS
from hybrid_core.validation import SpecError

JOINT_WIDTH = (
    48  # n_heads * v_head_dim of SECTIONS["intra"]: the SSM's width where a rule asks for equality
)
FREE_WIDTH = 64  # its width where none does

SECTIONS: dict[str, dict[str, Any]] = {
    "attention": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
    "swa": {"window": 4, "sink": 2},
    "ssm": {"d_ssm": 64, "head_dim": 16, "d_state": 8, "d_conv": 4, "chunk_size": 8},
    "intra": {
        "n_heads": 4,
        "n_kv_heads": 2,
        "qk_head_dim": 6,
        "v_head_dim": 12,
        "d_ssm": JOINT_WIDTH,
        "ssm_head_dim": 16,
    },
    "diff": {"norm": "none", "scalar": "diff_t", "fusion": "diff"},
    "ffn": {"kind": "swiglu", "d_ff": 40},
}
MIXER_SECTIONS = ("attention", "swa", "ssm", "intra", "diff")
INTRA_AXES = {
    "norm": "group",
    "scalar": "none",
    "fusion": "diff",
    "value": "separate",
    "out": "separate",
}
# Zamba's block: attention over twice the width, whose weights layers share.
SHARED_BLOCK = {
    "attention": {"kind": "attention", "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_input": 64},
    "ffn": {"kind": "swiglu", "d_ff": 24, "activation": "gelu"},
}
MAMBA1 = {"kind": "mamba1", "d_ssm": 48, "d_state": 5, "d_conv": 4, "dt_rank": 3}
MOE = {"kind": "moe", "n_routed": 4, "top_k": 2, "n_shared": 1, "d_expert": 20}

# Every kind of mixer, small: what `mixers` says of such a layer. A new kind is one line here.
_HEADS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
_SSM = {"kind": "mamba2"} | SECTIONS["ssm"]
TINY: dict[str, dict[str, Any]] = {
    "attention": _HEADS,
    "swa": _HEADS | {"window": 4, "sink": 2},
    "mamba2": SECTIONS["ssm"],
    "mamba1": {"d_ssm": 48, "d_state": 5, "d_conv": 4, "dt_rank": 3},
    "intra": {"attention": {"kind": "attention"} | _HEADS, "ssm": _SSM} | INTRA_AXES,
    "diff_attention": _HEADS | SECTIONS["diff"],
    "diff_mamba2": SECTIONS["ssm"] | SECTIONS["diff"] | {"n_groups": 2},
    "shared_block": SHARED_BLOCK | {"ssm": _SSM, "block": 0},
    "side_by_side": {"branches": [{"kind": "attention"} | _HEADS, _SSM]},
    "mla": {"n_heads": 4, "nope_head_dim": 6, "rope_head_dim": 2, "v_head_dim": 8, "kv_rank": 12},
    "gated_deltanet": {"n_k_heads": 2, "n_v_heads": 4, "k_head_dim": 8, "v_head_dim": 8},
    "kda": {"n_heads": 4, "head_dim": 8},
    "rg_lru": {"width": 32, "n_blocks": 4},
    "short_conv": {"d_conv": 3},
    "gated_memory": {"d_memory": 48},
    "declared": {"name": "tiny", "matrix_params": 1000, "state": 64, "flops_per_token": 99},
}

# Layers behind A and S of the sections above that take their keys and values.
REUSING = {
    "x": {"kind": "attention", "reuse_kv": True, "qk_norm": True, **SECTIONS["attention"]},
    "y": {"kind": "swa", "reuse_kv": True, **SECTIONS["attention"], **SECTIONS["swa"]},
}

# Hymba in small: windows whose sinks are the meta tokens, layers that reuse keys and values,
# Mamba-1 beside the attention.
TINY_HYMBA: dict[str, Any] = {
    "model_type": "hymba",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
}
TINY_HYMBA |= {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 4,
    "num_memory_tokens": 3,
    "global_attn_idx": [0, 4, 5],
}
TINY_HYMBA |= {
    "kv_reuse_group": [[1, 2, 3], [4, 5]],
    "mamba_d_state": 5,
    "mamba_dt_rank": 3,
    "mlp_hidden_act": "silu",
    "rope_type": "ntk",
}

TINY_SAMBA: dict[str, Any] = {
    "n_layer": 4,
    "n_embd": 32,
    "n_head": 4,
    "n_query_groups": 2,
    "mb_per_layer": 2,
    "local_window": 4,
}
TINY_SAMBA |= {
    "vocab_size": 50,
    "padding_multiple": 10,
    "intermediate_size": 40,
    "bias": False,
    "parallel_residual": False,
}
TINY_SAMBA |= {"_mlp_class": "LLaMAMLP", "_norm_class": "RMSNorm"}

# Every kind alone, kinds in both orders, and all of them in one stack.
PATTERNS = ("A", "S", "M", "H", "D", "N", "AM", "SA", "AMSH", "HSMA", "NADM")


def mapping(pattern: str = "AM", **changes: Any) -> dict[str, Any]:
    """A small design as it comes out of YAML. A mixer section's change is merged into it; any other
    value, and a section of another kind, is replaced; None leaves it out."""
    data = {
        "schema": 1,
        "name": f"small-{pattern}",
        "vocab_size": 50,
        "d_model": 32,
        "n_layers": len(pattern),
    }
    data |= {"layers": {"strategy": "custom", "pattern": pattern}} | SECTIONS
    for key, value in changes.items():
        merged = key in MIXER_SECTIONS and value is not None and "kind" not in value
        data[key] = data[key] | value if merged else value
    return {key: value for key, value in data.items() if value is not None}


def design(pattern: str = "AM", **changes: Any) -> ArchSpec:
    """A small design whose layers are `pattern`; see `mapping` for the changes."""
    return ArchSpec.from_mapping(mapping(pattern, **changes))


def tiny(kind: str, n_layers: int = 2) -> ArchSpec:
    """A small design of nothing but layers of one kind, spelled out under `mixers`."""
    mixers = {"0": {"kind": kind} | TINY[kind]}
    return design("0" * n_layers, mixers=mixers)


# Kinds that have a module and no letter of their own in PATTERNS, each alone.
TINY_BUILT: dict[str, ArchSpec] = {
    kind.kind: tiny(kind.kind)
    for kind in MIXERS
    if kind.entry.module and kind.entry.sections is None
}


# All but surrogates and controls.
NAME_CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"])


def complaint(text: str | bytes) -> str:
    """What is said of a bad design: a SpecError of exactly one line."""
    with pytest.raises(SpecError) as error:
        ArchSpec.from_yaml(text)
    message = str(error.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


def _axes() -> dict[str, tuple[str, ...]]:
    return {
        axis: get_args(getattr(schema, axis.capitalize()))
        for axis in ("norm", "scalar", "fusion", "value", "out")
    }


ALL_AXES: list[dict[str, str]] = [
    dict(zip(_axes(), values, strict=True)) for values in itertools.product(*_axes().values())
]


def intra_design(axes: dict[str, str], pattern: str = "H", **changes: Any) -> ArchSpec:
    """A design whose intra-hybrid blocks use `axes`, with an SSM wider than the values wherever
    that is allowed."""
    equal = axes["value"] == "shared" or (axes["out"] == "joint" and axes["fusion"] != "concat")
    return design(pattern, intra=axes | {"d_ssm": JOINT_WIDTH if equal else FREE_WIDTH}, **changes)


# Two outputs of width d_model cannot be concatenated into one; all else can be combined.
INTRA_COMBINATIONS = [
    axes for axes in ALL_AXES if not (axes["fusion"] == "concat" and axes["out"] == "separate")
]


def axes_id(axes: dict[str, str]) -> str:
    """`group-none-diff-separate-joint`, for the id of a test case."""
    return "-".join(axes.values())


@st.composite
def valid_designs(draw: st.DrawFn) -> ArchSpec:
    """Any design within small bounds: every strategy, section, axis and feed-forward."""
    divisor, times = st.integers(1, 3), st.integers(1, 4)
    n_layers = draw(st.integers(1, 9))
    layers = draw(_layers(n_layers))
    letters = layers.get("pattern", "H" if layers["strategy"] == "intra" else "")
    two = 2 if set("DN") & set(letters) else 1  # differential mixers want heads in pairs
    kv, head_dim, p = draw(divisor) * two, 2 * draw(times), draw(st.integers(1, 8))
    groups, axes = draw(divisor), draw(st.sampled_from(INTRA_COMBINATIONS))
    heads, v_head_dim = (
        kv * draw(divisor),
        p * groups,
    )  # so that the values' width has whole SSM heads in whole groups
    changes: dict[str, Any] = {
        "name": draw(st.text(NAME_CHARACTERS, min_size=1, max_size=20)),
        "n_layers": n_layers,
        "vocab_size": draw(st.integers(1, 60)),
        "d_model": draw(st.integers(1, 24)),
        "tie_embeddings": draw(st.booleans()),
        "norm_eps": draw(st.floats(1e-12, 0.1)),
        "layers": layers,
        "attention": draw(_attention(kv, head_dim)),
        "swa": {
            "window": draw(st.integers(1, 9)),
            "sink": draw(st.integers(0, 5)),
            "rope_theta": draw(st.floats(1.001, 1e9)),
        },
        "ssm": {
            "d_ssm": p * groups * draw(times) * two,
            "head_dim": p,
            "d_state": draw(times),
            "d_conv": draw(times),
            "n_groups": groups,
            "chunk_size": (1, 2, 4, 4)[draw(times) - 1],
        },
        "intra": axes
        | {
            "n_heads": heads,
            "n_kv_heads": kv,
            "qk_head_dim": head_dim,
            "v_head_dim": v_head_dim,
            "d_ssm": heads * v_head_dim,
            "ssm_head_dim": p,
        },
        "diff": {
            "norm": draw(st.sampled_from(["group", "none"])),
            "scalar": draw(st.sampled_from(["diff_t", "none"])),
            "fusion": draw(st.sampled_from(["diff", "add"])),
        },
        "ffn": draw(
            st.sampled_from(
                [None, {"kind": "swiglu", "d_ff": 7}, MOE, MOE | {"n_shared": 0, "top_k": 4}]
            )
        ),
    }
    if not set("HN") & set(letters) and draw(st.booleans()):
        sizes = {
            "d_ssm": draw(times),
            "d_state": draw(times),
            "d_conv": draw(times),
            "dt_rank": draw(times),
        }
        changes["ssm"] = {"kind": "mamba1", "dt_bc_norm": draw(st.booleans())} | sizes
    return ArchSpec.from_mapping(
        {key: value for key, value in ({"schema": 1} | changes).items() if value is not None}
    )


@st.composite
def optional_designs(draw: st.DrawFn) -> ArchSpec:
    """Any valid design with any of the options that published models have and our modules build:
    biases, norms, Mamba-1 in heads, feed-forwards of all kinds, mixers and feed-forwards in layers
    of their own, Zamba's shared blocks."""
    flag = st.booleans()
    data = draw(valid_designs()).model_dump(exclude_none=True, by_alias=True)
    plain = not set("DN") & set(
        data["layers"].get("pattern") or ""
    )  # the differential mixers know no options
    if plain:
        data["attention"] |= {key: draw(flag) for key in ("qkv_bias", "out_bias", "qk_norm")}
        biases = (
            ("proj_bias",)
            if data["ssm"].get("kind") == "mamba1"
            else ("in_bias", "out_bias", "gated_norm", "norm_first")
        )
        data["ssm"] |= {key: draw(flag) for key in biases}
        if data["ssm"].get("kind") == "mamba1":
            data["ssm"] |= {
                "n_heads": draw(
                    st.sampled_from([n for n in (1, 2, 3) if data["ssm"]["d_ssm"] % n == 0])
                )
            }
            data["ssm"] |= {"dt_bc_weight": draw(flag)}
        data["intra"] |= {"ssm_norm": draw(flag) and data["intra"]["norm"] == "none"}
    data["ffns"] = {
        "G": {"kind": "swiglu", "d_ff": 6, "activation": "gelu", "bias": draw(flag)},
        "P": {"kind": "mlp", "d_ff": 5, "bias": draw(flag)},
        "E": MOE | {"score": "softmax", "norm_top_k": draw(flag), "d_shared": 7, "scale": 2.0},
        "L": MOE | {"gated": False, "activation": "relu2", "d_latent": 6},
    }
    n_layers = data["n_layers"]
    layers, heads = (
        data["layers"],
        {
            "kind": "attention",
            "n_heads": 2,
            "n_kv_heads": 1,
            "head_dim": 4,
            "d_input": 2 * data["d_model"],
        },
    )
    layers["ffns"] = draw(st.text("GPEL-", min_size=n_layers, max_size=n_layers))
    if layers["strategy"] == "custom":
        block = {
            "kind": "shared_block",
            "attention": heads,
            "ffn": data["ffns"]["G"],
            "ssm": {"kind": "mamba2"} | SECTIONS["ssm"],
        }
        block |= {"adapter_rank": draw(st.integers(0, 3)), "attention_adapters": draw(flag)}
        data["mixers"] = {str(i): block | {"block": i} for i in range(2)}
        instead = draw(st.text("01-.", min_size=n_layers, max_size=n_layers))
        layers["pattern"] = "".join(
            a if b == "." else b for a, b in zip(layers["pattern"], instead, strict=True)
        )
        layers["ffns"] = "".join(
            "P" if a == "-" else b for a, b in zip(layers["pattern"], layers["ffns"], strict=True)
        )
    return ArchSpec.from_mapping(data)


def widened(spec: ArchSpec, times: int) -> ArchSpec:
    """The same design with every width `times` as wide; numbers of heads, groups, experts and
    layers stay."""
    widths = {
        "d_model",
        "head_dim",
        "window",
        "d_ssm",
        "d_state",
        "chunk_size",
        "dt_rank",
        "qk_head_dim",
        "v_head_dim",
        "ssm_head_dim",
    }
    widths |= {"d_ff", "d_expert"}

    def wider(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: wider(inner, held) for inner, held in value.items()}
        return value * times if key in widths and value is not None else value

    wide = {key: wider(key, value) for key, value in yaml.safe_load(spec.to_yaml()).items()}
    if wide.get("ssm", {}).get("kind") == "mamba1":
        wide["ssm"]["d_ssm"] *= 8  # always much wider than its state
    return ArchSpec.from_mapping(wide)


@st.composite
def _attention(draw: st.DrawFn, n_kv_heads: int, head_dim: int) -> dict[str, Any]:
    scaling = {
        "factor": draw(st.floats(1.0, 64.0)),
        "original_context_len": draw(st.integers(1, 9000)),
    }
    section = {
        "n_heads": n_kv_heads * draw(st.integers(1, 3)),
        "n_kv_heads": n_kv_heads,
        "head_dim": head_dim,
    }
    section |= {
        "position": draw(st.sampled_from(["rope", "nope"])),
        "rope_theta": draw(st.floats(1.001, 1e9)),
    }
    section |= {"rope_fraction": draw(st.sampled_from([1.0, 2 / head_dim]))}
    return section | draw(st.sampled_from([{}, {"rope_scaling": scaling}]))


@st.composite
def _layers(draw: st.DrawFn, n_layers: int) -> dict[str, Any]:
    strategy = draw(st.sampled_from(placement.STRATEGIES))
    if strategy == "custom":
        return {
            "strategy": strategy,
            "pattern": draw(
                st.text("".join(placement.LETTERS), min_size=n_layers, max_size=n_layers)
            ),
        }
    if strategy in placement.UNIFORM:
        return {"strategy": strategy}
    if draw(st.booleans()):
        indices = draw(st.lists(st.integers(1, n_layers), unique=True, max_size=n_layers))
        return {"strategy": strategy, "indices": indices}
    ratio = f"{draw(st.integers(0, 13))}:{draw(st.integers(1, 13))}"
    return {
        "strategy": strategy,
        "ratio": ratio,
        "placement": draw(st.sampled_from(placement.PLACEMENTS)),
    }


# ---------------------------------------------------------------- the paper's rows


class PaperRow(NamedTuple):
    """A row of Table 9, 10 or 12 as printed, its layer counts, and the dense presets of that scale
    with as many layers of each kind."""

    table: str
    cells: pd.Series
    counts: tuple[int, ...]
    presets: list[str]

    def __str__(self) -> str:
        budget = self.cells.get("budget", f"{self.cells.get('context_len')}")
        return f"{self.table}-{self.cells['model']}-{'+'.join(map(str, self.counts))}-{budget}"


def _final(spec: ArchSpec) -> bool:
    """Whether an intra-hybrid block of this design is the paper's final choice, which all these
    rows have."""
    assert spec.intra
    return tuple(getattr(spec.intra, axis) for axis in _axes()) == (
        "group",
        "none",
        "diff",
        "separate",
        "separate",
    )


def paper_rows() -> list[PaperRow]:
    dense = {
        name: spec
        for name in presets.names()
        if "moe" not in name and _final(spec := presets.get(name).spec)
    }
    rows = []
    for table in ("table09_1b", "table10_350m", "table12_long_context"):
        for _, cells in baselines.table(table).iterrows():
            counts = errata.meant_layers(table, tuple(cells[baselines.COUNTS]))
            same = [
                name
                for name, spec in dense.items()
                if (baselines.counts(spec), baselines.scale(spec)) == (counts, cells["scale"])
            ]
            rows.append(PaperRow(table, cells, counts, same))
    return rows
