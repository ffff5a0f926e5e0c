"""Operations of Transformer/Mamba hybrids, one folder each: `from kernels.ssd import ssd`.

A folder holds the sequential truth (`reference.py`), a fast torch version for any device (`eager.py`), a Triton version
(`triton_kernel.py`), and one public signature. `dispatch.py` decides which of them runs, `explain` says so beforehand and `ran` afterwards.
Nothing here knows of hybrid_core. On the meta device there are no data: there each operation is one node of the graph, which FLOP
counters price by the formula registered beside it (`counting.py`).
"""

from kernels.dispatch import explain, forget, ran, use

__all__ = ["explain", "forget", "ran", "use"]
