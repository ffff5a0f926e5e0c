"""Compiles every kernel for an H100, on a machine that needs none: `python -m tests.kernels.compile_for_h100 [OPERATION ...] [DTYPE ...]`.

The operations run on CPU tensors of real sizes, but a kernel's launch only compiles it. Prints one line per kernel (its registers
spilled to memory, its shared memory) and fails where one does not compile or asks for more shared memory than an H100 has.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels import dispatch

SHARED_MEMORY = 232448  # bytes that a block may have on an H100
TARGET = GPUTarget("cuda", 90, 32)


class NoDevice:
    """What Triton asks a driver for while it compiles."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(report: Callable[[str, Any], None]) -> None:
    """From here on `kernel[grid](...)` compiles the kernel and reports it, and does not launch it."""
    driver.set_active(NoDevice())
    launch = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        report(self.__name__, launch(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = run  # type: ignore[method-assign]


def spilled(kernel: Any) -> str:
    """Registers used and bytes spilled, in the words of ptxas."""
    ptxas: Any = get_ptxas(90) if get_ptxas.__code__.co_argcount else get_ptxas()  # Triton 3.6 asks for the architecture
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(kernel.asm["ptx"])
        command = [ptxas.path, "-v", "--gpu-name=sm_90a", source, "-o", source.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    numbers = [re.search(r"\d+ bytes spill stores|Used \d+ registers", line) for line in said.splitlines()]
    return ", ".join(found[0] for found in numbers if found)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> Tensor:
    return torch.rand(*shape).to(dtype).requires_grad_(grad)


def ssd(dtype: torch.dtype, grad: bool) -> None:
    from kernels.ssd.triton_kernel import ssd

    for t, p, n in ((1024, 128, 128), (1000, 64, 256), (40, 96, 16)):
        x, dt, A = random(1, t, 4, p, dtype=dtype, grad=grad), random(1, t, 4, dtype=torch.float32), random(4, dtype=torch.float32)
        B, D = random(1, t, 1, n, dtype=dtype), random(4, dtype=dtype)
        y, after = ssd(x, dt, A, B, B, D, 256, random(1, 4, p, n, dtype=torch.float32))
        if grad:
            (y.sum() + after.sum()).backward()


def ssd_step(dtype: torch.dtype, grad: bool) -> None:
    from kernels.ssd.triton_kernel import ssd_step

    x, dt, A, B = random(1, 1, 4, 128, dtype=dtype), random(1, 1, 4, dtype=torch.float32), random(4), random(1, 1, 1, 128, dtype=dtype)
    ssd_step(x, dt, A, B, B, A, random(1, 4, 128, 128, dtype=torch.float32))


def causal_conv1d(dtype: torch.dtype, grad: bool) -> None:
    from kernels.causal_conv1d.triton_kernel import causal_conv1d

    x, weight, bias = random(2, 512, 4352, dtype=dtype, grad=grad), random(4352, 4, dtype=dtype), random(4352, dtype=dtype)
    y, _ = causal_conv1d(x, weight, bias, random(2, 3, 4352, dtype=dtype))
    if grad:
        y.sum().backward()


def mamba2_step(dtype: torch.dtype, grad: bool) -> None:
    from kernels.mamba2_step.triton_kernel import mamba2_step

    d, channels, h = 4096, 4352, 32
    row, conv, state = random(2, d + channels + h, dtype=dtype), random(2, 3, channels, dtype=dtype), random(2, h, 128, 128)
    weights = random(channels, 4, dtype=dtype), random(channels, dtype=dtype), *(random(h, dtype=dtype) for _ in range(3))
    mamba2_step(row, conv, state, *weights, 1, None)


def gated_rms_norm(dtype: torch.dtype, grad: bool) -> None:
    from kernels.gated_rms_norm.triton_kernel import gated_rms_norm

    y, z, weight = (random(*shape, dtype=dtype, grad=grad) for shape in ((2, 512, 4096), (2, 512, 4096), (4096,)))
    out = gated_rms_norm(y, z, weight, 1e-5, 4096)
    if grad:
        out.sum().backward()


def rms_norm(dtype: torch.dtype, grad: bool) -> None:
    from kernels.rms_norm.triton_kernel import rms_norm

    x, weight = random(2, 512, 2048, dtype=dtype, grad=grad), random(2048, dtype=dtype, grad=grad)
    out, total = rms_norm(x, weight, 1e-5, x)
    if grad:
        (out + total).sum().backward()


def branch_fusion(dtype: torch.dtype, grad: bool) -> None:
    from kernels.branch_fusion.triton_kernel import branch_fusion

    a, weight = random(2, 512, 2048, dtype=dtype, grad=grad), random(2048, dtype=dtype, grad=grad)
    out = branch_fusion(a, a, a, weight, weight, 1e-5, (128, 128), "diff")
    if grad:
        out.sum().backward()  # type: ignore[union-attr]


def attention(dtype: torch.dtype, grad: bool) -> None:
    from kernels.attention.triton_kernel import attention

    for t, s, d, d_v in ((512, 512, 64, 64), (512, 512, 128, 128), (256, 256, 72, 128), (1, 4096, 64, 64)):
        q, k, v = random(1, t, 8, d, dtype=dtype, grad=grad), random(1, s, 2, d, dtype=dtype), random(1, s, 2, d_v, dtype=dtype)
        out = attention(q, k, v, 0, 0, 0, 0.1)
        if grad:
            out.sum().backward()


def selective_scan(dtype: torch.dtype, grad: bool) -> None:
    from kernels.selective_scan.triton_kernel import selective_scan

    x, dt, A = (
        random(1, 1024, 1024, dtype=dtype, grad=grad),
        random(1, 1024, 1024, dtype=torch.float32),
        random(1024, 16, dtype=torch.float32),
    )
    B, D = random(1, 1024, 16, dtype=dtype), random(1024, dtype=dtype)
    y, _ = selective_scan(x, dt, A, B, B, D, random(1, 1024, 16, dtype=torch.float32))
    if grad:
        y.sum().backward()


def selective_scan_step(dtype: torch.dtype, grad: bool) -> None:
    from kernels.selective_scan.triton_kernel import selective_scan_step

    x, dt, A, B = random(1, 1, 1024, dtype=dtype), random(1, 1, 1024, dtype=torch.float32), random(1024, 16), random(1, 1, 16, dtype=dtype)
    selective_scan_step(x, dt, A, B, B, random(1024), random(1, 1024, 16, dtype=torch.float32))


def grouped_linear(dtype: torch.dtype, grad: bool) -> None:
    from kernels.grouped_linear.triton_kernel import grouped_linear

    for n_rows in (16, 2048):
        x, weight = random(n_rows, 512, dtype=dtype, grad=grad), random(8, 1024, 512, dtype=dtype, grad=grad)
        out = grouped_linear(x, weight, torch.full((8,), n_rows // 8))
        if grad:
            out.sum().backward()


OPERATIONS = (
    *(ssd, ssd_step, causal_conv1d, mamba2_step, gated_rms_norm, rms_norm, branch_fusion, attention),
    *(selective_scan, selective_scan_step, grouped_linear),
)
CALLS = {f.__name__: f for f in OPERATIONS}


def main(names: list[str]) -> int:
    seen: set[str] = set()
    too_large = []

    def report(name: str, kernel: Any) -> None:
        shared = kernel.metadata.shared
        line = f"{name:20} warps {kernel.metadata.num_warps}, shared {shared:6}, {spilled(kernel)}"
        if line not in seen:
            print("   ", line, flush=True)
        seen.add(line)
        if shared > SHARED_MEMORY:
            too_large.append(line)

    compile_only(report)
    dtypes = [dtype for dtype in (torch.bfloat16, torch.float32) if str(dtype).removeprefix("torch.") in names]
    for name in [name for name in names if name in CALLS] or CALLS:
        for dtype in dtypes or (torch.bfloat16, torch.float32):
            for grad in (False, True):
                if not grad or "triton" in dispatch.OPERATIONS[name].trains:
                    print(f"{name}, {dtype}{', with gradients' if grad else ''}", flush=True)
                    CALLS[name](dtype, grad)
    print(f"triton {triton.__version__}: {len(too_large)} kernels ask for more shared memory than there is")
    return bool(too_large)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
