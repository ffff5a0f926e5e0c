"""Operations of Transformer/Mamba hybrids, one folder each: `from kernels.ssd import ssd`.

A folder holds the sequential reference (`reference.py`), a fast torch version for any device
(`eager.py`), a Triton version (`triton_kernel.py`), and one public signature. `dispatch.py` decides
which of them runs: `explain` shows the choice beforehand, and `ran` shows it afterwards. Nothing
here depends on hybrid_core.

Tensors on the meta device hold no data. There each operation is one node of the graph, and FLOP
counters use the formula registered for it (`counting.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.dispatch import explain, forget, ran, require_forced, use

__all__ = ["explain", "forget", "ran", "require_forced", "use"]


def __getattr__(name: str) -> Any:
    """The functions of `dispatch`, imported on first use.

    `dispatch` needs torch, but `kernels.implementations` must be importable without it.
    """
    if name in __all__:
        return getattr(import_module("kernels.dispatch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
