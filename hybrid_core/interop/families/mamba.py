"""Mamba: every layer is a Mamba-1 layer without a feed-forward."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import shared, table, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, count, derived, flag
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba1 import Mamba1Mixer

DEFAULTS = {
    "vocab_size": 50_280,
    "hidden_size": 768,
    "num_hidden_layers": 32,
}
MODEL = table.model("layer_norm_epsilon", tied=True)
SSM = Table(
    count("d_ssm", "intermediate_size"),  # takes precedence over `expand`
    count("d_state", "state_size", 16),
    count("d_conv", "conv_kernel", 4),
    derived("dt_rank", "time_step_rank"),
    flag("proj_bias", "use_bias"),
    flag("conv_bias", "use_conv_bias", True),
)
BLOCK = tensors.ssm("mixer", *tensors.MAMBA1) | tensors.norms("norm")


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    shared.silu(c)
    d_model = c.count("hidden_size")
    expanded = d_model * c.count("expand", 2)
    ssm = SSM.read(c, d_ssm=expanded) | {
        "kind": "mamba1",
        "dt_rank": shared.dt_rank(c, "time_step_rank", d_model),
    }
    return MODEL.read(c) | {"layers": {"strategy": "mamba"}, "ssm": ssm}


FAMILY = Family(
    name="mamba",
    read=read,
    tables={ArchSpec: MODEL, Mamba1Mixer: SSM},
    defaults=DEFAULTS,
    written=Written("MambaForCausalLM", (writing.expand("expand"),)),
    tensors=Tensors(*tensors.BACKBONE, {"m": BLOCK}),
)
