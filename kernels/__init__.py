"""Operations of Transformer/Mamba hybrids, one folder each: `from kernels.ssd import ssd`.

A folder holds the sequential truth (`reference.py`), a fast torch version for any device (`eager.py`), and one public signature.
Nothing here knows of hybrid_core. On the meta device there are no data: there each operation is one node of the graph, which FLOP
counters price by the formula registered beside it (`counting.py`).
"""

OPERATIONS = {
    "attention": "torch scaled_dot_product_attention",
    "causal_conv1d": "eager torch",
    "grouped_linear": "eager torch",
    "selective_scan": "eager torch, piece by piece",
    "selective_scan_step": "eager torch",
    "ssd": "eager torch, chunk by chunk",
    "ssd_step": "eager torch",
}


def explain(device_type: str) -> dict[str, str]:
    """Which implementation each operation runs on a device of this type ("cpu", "cuda", "meta")."""
    return {name: "counted, not computed" if device_type == "meta" else path for name, path in OPERATIONS.items()}
