"""Mamba: Mamba-1 alone in every layer."""

from typing import Any

from hybrid_core.interop.families import shared, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba1 import Mamba1Mixer

DEFAULTS = {
    "vocab_size": 50_280,
    "hidden_size": 768,
    "num_hidden_layers": 32,
}
FIELDS = {
    "intermediate_size": "d_ssm",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "time_step_rank": "dt_rank",
    "use_bias": "proj_bias",
    "use_conv_bias": "conv_bias",
}
BLOCK = tensors.ssm("mixer", *tensors.MAMBA1) | tensors.norms("norm")


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    d_model = c.count("hidden_size")
    expanded = d_model * c.count("expand", 2)
    ssm = {
        "kind": "mamba1",
        "d_ssm": c.count("intermediate_size", expanded),  # wins over `expand`
        "d_state": c.count("state_size", 16),
        "d_conv": c.count("conv_kernel", 4),
        "dt_rank": shared.dt_rank(c, "time_step_rank", d_model),
        "proj_bias": c.flag("use_bias"),
        "conv_bias": c.flag("use_conv_bias", True),
    }
    design = shared.model(c, "layer_norm_epsilon", tied=True)
    return design | {"layers": {"strategy": "mamba"}, "ssm": ssm}


FAMILY = Family(
    name="mamba",
    read=read,
    defaults=DEFAULTS,
    written=Written(
        "MambaForCausalLM",
        writing.LAYER_EPS,
        {Mamba1Mixer: FIELDS},
        (writing.expand("expand"),),
    ),
    tensors=Tensors(*tensors.BACKBONE, {"m": BLOCK}),
)
