"""Hybrid architecture explorer: compose, cost, build, profile and compare Transformer/Mamba
language models.

    import hybrid_core as h

    design = h.presets.get("inter-1to5-1b")     # 2 attention layers among 11 Mamba-2 layers
    h.cost(design, context_len=8192)            # parameters, FLOPs, cache, memory
    h.forecast(design, hardware="h200_sxm")     # seconds and tokens/s
    h.build(design)                             # a torch module
    h.profile(design, budget_s=60)              # measured on this machine
    h.read_config("config.json")                # a published model as a design
    h.export(design, to="hf")                   # files for other frameworks

`h.ArchSpec` describes a design and `h.Workload` its workload. Names are imported on first use, so
`import hybrid_core` is fast and needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_core.design import presets
    from hybrid_core.design.spec import ArchSpec
    from hybrid_core.library import build, cost, export, forecast, profile, read_config
    from hybrid_core.workload import Workload

__version__ = "0.1.0"
__all__ = [
    "ArchSpec",
    "Workload",
    "build",
    "cost",
    "export",
    "forecast",
    "presets",
    "profile",
    "read_config",
]

_DEFINED_IN = {
    "ArchSpec": "hybrid_core.design.spec",
    "Workload": "hybrid_core.workload",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "presets":
        return import_module("hybrid_core.design.presets")
    module = import_module(_DEFINED_IN.get(name, "hybrid_core.library"))
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
