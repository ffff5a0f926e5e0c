"""Mamba-2: every layer is a Mamba-2 layer without a feed-forward."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived, flag
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba2 import Mamba2Mixer

_MODEL = table.model("layer_norm_epsilon")
_SSM = Table(
    derived("n_heads", "num_heads"),
    count("head_dim", "head_dim"),
    count("d_state", "state_size"),
    count("d_conv", "conv_kernel", 4),
    count("n_groups", "n_groups"),
    count("chunk_size", "chunk_size", 256),
    flag("out_bias", "use_bias"),
    flag("in_bias", "use_bias"),
    flag("conv_bias", "use_conv_bias", True),
)


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    ssm = _SSM.read(c) | shared.dt_limit(c)
    n_heads = c.count("num_heads")
    d_ssm = n_heads * ssm["head_dim"]
    ssm["d_ssm"] = d_ssm
    c.must("expand", d_ssm / c.count("hidden_size"))
    c.must("intermediate_size", d_ssm)
    c.must("rms_norm", True, None)
    return _MODEL.read(c) | {"layers": {"strategy": "mamba"}, "ssm": ssm}


FAMILY = Family(
    name="mamba2",
    read=read,
    tables={ArchSpec: _MODEL, Mamba2Mixer: _SSM},
    defaults={
        "vocab_size": 32_768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
    },
    written=Written("Mamba2ForCausalLM", (writing.expand("expand"), writing.dt_limit)),
    tensors=Tensors(
        *tensors.BACKBONE,
        {"M": tensors.ssm("mixer", *tensors.MAMBA2) | tensors.norms("norm")},
    ),
)
