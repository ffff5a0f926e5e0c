"""Compiles every kernel for an H100, on a machine that needs none: `python -m
tests.kernels.compile_for_h100 [OPERATION ...] [DTYPE ...]`.

The operations run on CPU tensors of real sizes, but a kernel's launch only compiles it. Prints one
line per kernel (its registers spilled to memory, its shared memory) and fails where one does not
compile or asks for more shared memory than an H100 has."""

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
    """From here on `kernel[grid](...)` compiles the kernel and reports it, and does not launch
    it."""
    driver.set_active(NoDevice())
    launch = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        report(self.__name__, launch(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = run  # type: ignore[method-assign]


def spilled(kernel: Any) -> str:
    """Registers used and bytes spilled, in the words of ptxas."""
    ptxas: Any = (
        get_ptxas(90) if get_ptxas.__code__.co_argcount else get_ptxas()
    )  # Triton 3.6 asks for the architecture
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(kernel.asm["ptx"])
        command = [
            ptxas.path,
            "-v",
            "--gpu-name=sm_90a",
            source,
            "-o",
            source.with_suffix(".cubin"),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    numbers = [
        re.search(r"\d+ bytes spill stores|Used \d+ registers", line) for line in said.splitlines()
    ]
    return ", ".join(found[0] for found in numbers if found)


Call = Callable[
    [Callable[..., Tensor]], tuple[Any, ...]
]  # the arguments of an operation, given something that makes tensors


def _ssd(t: int, h: int, p: int, n: int) -> Call:
    f32 = torch.float32
    return lambda make: (
        *(
            make(1, t, h, p),
            make(1, t, h, dtype=f32),
            make(h, dtype=f32),
            make(1, t, 1, n),
            make(1, t, 1, n),
            make(h),
        ),
        *(256, make(1, h, p, n, dtype=f32)),
    )


def _ssd_step(h: int, p: int, n: int) -> Call:
    f32 = torch.float32
    scan = _ssd(1, h, p, n)
    return lambda make: (*scan(make)[:6], make(1, h, p, n, dtype=f32))


def _causal_conv1d(b: int, t: int, c: int) -> Call:
    return lambda make: (make(b, t, c), make(c, 4), make(c), make(b, 3, c))


def _mamba2_step(b: int, h: int, p: int, n: int) -> Call:
    c = h * p + 2 * n
    return lambda make: (
        *(
            make(b, h * p + c + h),
            make(b, 3, c),
            make(b, h, p, n, dtype=torch.float32),
            make(c, 4),
            make(c),
        ),
        *(make(h), make(h), make(h), 1, None, True, 0.0),
    )


def _gated_rms_norm(t: int, c: int, group: int) -> Call:
    return lambda make: (make(2, t, c), make(2, t, c), make(c), 1e-5, group)


def _rms_norm(t: int, c: int) -> Call:
    return lambda make: (make(2, t, c), make(c), 1e-5, make(2, t, c))


def _branch_fusion(t: int, c: int, group: int) -> Call:
    return lambda make: (
        make(2, t, c),
        make(2, t, c),
        make(2, t, c),
        make(c),
        make(c),
        1e-5,
        (group, group),
        "diff",
    )


def _attention(
    t: int, s: int, h: int, g: int, d: int, d_v: int, window: int = 0, sink: int = 0
) -> Call:
    return lambda make: (
        make(1, t, h, d),
        make(1, s, g, d),
        make(1, s, g, d_v),
        window,
        sink,
        0,
        0.1,
    )


def _attention_step(s: int, h: int, g: int, d: int) -> Call:
    return lambda make: (
        make(1, 1, h, d),
        make(1, s, g, d),
        make(1, s, g, d),
        torch.ones((), dtype=torch.long),
        0.1,
    )


def _selective_scan(t: int, e: int, n: int) -> Call:
    f32 = torch.float32
    return lambda make: (
        *(
            make(1, t, e),
            make(1, t, e, dtype=f32),
            make(e, n, dtype=f32),
            make(1, t, n),
            make(1, t, n),
            make(e),
        ),
        make(1, e, n, dtype=f32),
    )


def _grouped_linear(n_rows: int, e: int, n: int, k: int) -> Call:
    return lambda make: (make(n_rows, k), make(e, n, k), torch.full((e,), n_rows // e))


# The last of each has 1 wherever it can: Triton compiles an argument that is 1 as a constant.
CALLS = {
    "ssd": [_ssd(1024, 4, 128, 128), _ssd(1000, 4, 64, 256), _ssd(40, 4, 96, 16), _ssd(1, 1, 1, 1)],
    "ssd_step": [_ssd_step(4, 128, 128), _ssd_step(1, 1, 1)],
    "causal_conv1d": [_causal_conv1d(2, 512, 4352), _causal_conv1d(1, 1, 1)],
    "mamba2_step": [_mamba2_step(2, 32, 128, 128), _mamba2_step(1, 1, 1, 1)],
    "gated_rms_norm": [
        _gated_rms_norm(512, 4096, 4096),
        _gated_rms_norm(512, 4096, 128),
        _gated_rms_norm(1, 1, 1),
    ],
    "rms_norm": [_rms_norm(512, 2048), _rms_norm(1, 1)],
    "branch_fusion": [_branch_fusion(512, 2048, 128), _branch_fusion(1, 1, 1)],
    "attention": [
        *(
            _attention(512, 512, 8, 2, 64, 64, 64, 4),
            _attention(512, 512, 8, 2, 128, 128),
            _attention(256, 256, 8, 2, 72, 128),
        ),
        *(_attention(1, 4096, 8, 2, 64, 64), _attention(1, 1, 1, 1, 1, 1, 1, 1)),
    ],
    "attention_step": [_attention_step(4096, 8, 2, 64), _attention_step(1, 1, 1, 1)],
    "selective_scan": [_selective_scan(1024, 1024, 16), _selective_scan(1, 1, 1)],
    "selective_scan_step": [_selective_scan(1, 1024, 16), _selective_scan(1, 1, 1)],
    "grouped_linear": [
        _grouped_linear(16, 8, 1024, 512),
        _grouped_linear(2048, 8, 1024, 512),
        _grouped_linear(1, 1, 1, 1),
    ],
}


def compile_operation(name: str, dtype: torch.dtype, grad: bool) -> None:
    """Run all calls of an operation, with every gradient of floating-point arguments if `grad`."""

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.rand(*shape).to(dtype).requires_grad_(grad)

    for call in CALLS[name]:
        outs = dispatch._load(name, "triton")[0](*call(make))
        if grad:
            sum(out.sum() for out in (outs if isinstance(outs, tuple) else (outs,))).backward()


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main(names: list[str]) -> int:
    unknown = set(names) - {*CALLS, *DTYPES}
    if unknown:
        print(f"CALLS has no sizes for {', '.join(sorted(unknown))}")
        return 2
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
    dtypes = [dtype for name, dtype in DTYPES.items() if name in names]
    for name in [name for name in names if name in CALLS] or CALLS:
        for dtype in dtypes or DTYPES.values():
            for grad in (False, True):
                if not grad or "triton" in dispatch.OPERATIONS[name].trains:
                    print(f"{name}, {dtype}{', with gradients' if grad else ''}", flush=True)
                    compile_operation(name, dtype, grad)
    print(
        f"triton {triton.__version__}: "
        f"{len(too_large)} kernels ask for more shared memory than there is"
    )
    return bool(too_large)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
