"""Mamba-2 alone in every layer."""

from typing import Any

from hybrid_core.interop.families import shared, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba2 import Mamba2Mixer


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    biased = c.flag("use_bias")
    d_ssm = c.count("num_heads") * c.count("head_dim")
    ssm = {
        "d_ssm": d_ssm,
        "head_dim": c.count("head_dim"),
        "d_state": c.count("state_size"),
        "d_conv": c.count("conv_kernel", 4),
        "n_groups": c.count("n_groups"),
        "chunk_size": c.count("chunk_size", 256),
        "in_bias": biased,
        "out_bias": biased,
        "conv_bias": c.flag("use_conv_bias", True),
    }
    ssm |= shared.dt_limit(c)
    c.must("expand", d_ssm / c.count("hidden_size"))
    c.must("intermediate_size", d_ssm)
    c.must("rms_norm", True, None)
    design = shared.model(c, "layer_norm_epsilon")
    return design | {"layers": {"strategy": "mamba"}, "ssm": ssm}


FAMILY = Family(
    name="mamba2",
    read=read,
    defaults={
        "vocab_size": 32_768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
    },
    written=Written(
        "Mamba2ForCausalLM",
        writing.LAYER_EPS,
        {
            Mamba2Mixer: {
                "num_heads": "n_heads",
                "head_dim": "head_dim",
                "state_size": "d_state",
                "conv_kernel": "d_conv",
                "n_groups": "n_groups",
                "chunk_size": "chunk_size",
                "use_bias": "in_bias",
                "use_conv_bias": "conv_bias",
            }
        },
        (writing.expand("expand"), writing.dt_limit),
    ),
    tensors=Tensors(
        *tensors.BACKBONE,
        {"M": tensors.ssm("mixer", *tensors.MAMBA2) | tensors.norms("norm")},
    ),
)
