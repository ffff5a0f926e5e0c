"""Falcon-Mamba: Mamba-1 with norms of dt, B and C that have no weights."""

from typing import Any

from hybrid_core.interop.families import mamba, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba1 import Mamba1Mixer


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = mamba.read(c)
    c.ignore("use_falcon_mambapy")
    design["ssm"] |= {
        "dt_bc_norm": True,
        "dt_bc_weight": False,
        "dt_bc_eps": c.number("mixer_rms_eps", 1e-6),
    }
    return design


FAMILY = Family(
    name="falcon_mamba",
    read=read,
    defaults=mamba.DEFAULTS,
    written=Written(
        "FalconMambaForCausalLM",
        writing.LAYER_EPS,
        {Mamba1Mixer: mamba.FIELDS | {"mixer_rms_eps": "dt_bc_eps"}},
        (writing.expand("expand"),),
    ),
    tensors=Tensors(*tensors.BACKBONE, {"m": mamba.BLOCK}),
)
