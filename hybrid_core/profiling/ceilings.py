"""The ceilings of the device at hand, measured in a second or two: dense matrix products and memory reads."""

from typing import Any

import torch

from hybrid_core.hardware import Hardware, PeakFlops, Source
from hybrid_core.modules.cache import TORCH_DTYPES
from hybrid_core.profiling.device import describe
from hybrid_core.profiling.throughput import repeat


def measure(device: torch.device, dtype: str) -> dict[str, Any]:
    """FLOP/s of a square matrix product in `dtype`, and bytes/s of reading a matrix once (matrix-vector, float32; the best of five)."""
    size = 8192 if device.type == "cuda" else 2048
    with torch.inference_mode():
        a = torch.randn(size, size, device=device).to(TORCH_DTYPES[dtype])
        b = torch.randn(size, size, device=device).to(TORCH_DTYPES[dtype])
        a @ b
        product_s = min(repeat(lambda: a @ b, device, 1.5, most=5).seconds)
        wide = torch.ones(2**13, 2**15 if device.type == "cuda" else 2**13, device=device)
        vector = torch.ones(wide.shape[1], device=device)
        wide @ vector
        read_s = min(repeat(lambda: wide @ vector, device, 1.0, most=5).seconds)
    return {"flops_per_s": 2 * size**3 / product_s, "bytes_per_s": wide.nbytes / read_s, "dtype": dtype, "matrix": size}


def as_hardware(device: torch.device, dtype: str, ceilings: dict[str, Any]) -> Hardware:
    """The measured ceilings in the form that the roofline takes. Only `dtype` was measured; the other peaks repeat it."""
    found, peak = describe(device), ceilings["flops_per_s"]
    return Hardware(
        key="this_device",
        name=f"{found['name']} (measured)",
        kind="gpu" if device.type == "cuda" else "cpu",
        memory_bytes=found["memory_bytes"],
        bandwidth_bytes_per_s=ceilings["bytes_per_s"],
        peak_flops_per_s=PeakFlops(fp32=peak, bf16=peak, fp16=peak, fp8=None),
        tdp_w=1.0,
        sources=(Source(fields=("peak_flops_per_s", "bandwidth_bytes_per_s"), text=f"measured in {dtype} during this profile", url=""),),
    )
