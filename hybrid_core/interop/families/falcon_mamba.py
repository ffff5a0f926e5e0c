"""Falcon-Mamba: Mamba-1 with weightless norms of dt, B and C."""

from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families import mamba, tensors, writing
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.table import Table, number
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.mixers.mamba1 import Mamba1Mixer

_NORM = Table(number("dt_bc_eps", "mixer_rms_eps", 1e-6))


def read(c: Fields) -> dict[str, Any]:
    """The design of a config."""
    design = mamba.read(c)
    c.ignore("use_falcon_mambapy")
    design["ssm"] |= _NORM.read(c) | {
        "dt_bc_norm": True,
        "dt_bc_weight": False,
    }
    return design


FAMILY = Family(
    name="falcon_mamba",
    read=read,
    tables={ArchSpec: mamba.MODEL, Mamba1Mixer: mamba.SSM | _NORM},
    defaults=mamba.DEFAULTS,
    written=Written("FalconMambaForCausalLM", (writing.expand("expand"),)),
    tensors=Tensors(*tensors.BACKBONE, {"m": mamba.BLOCK}),
)
