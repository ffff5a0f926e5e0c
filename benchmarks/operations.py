"""Every operation's implementations side by side on a CUDA device: `python -m benchmarks.operations [OPERATION ...] [--segments]`.

Prints the median milliseconds of each, in bf16 at the sizes of the 1B designs, and how many times as long as Triton the others take.
An implementation that cannot run says why. --segments times the scan cut into other numbers of segments than its own choice.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from kernels import use
from kernels.attention import attention
from kernels.branch_fusion import fused_branches
from kernels.causal_conv1d import causal_conv1d
from kernels.dispatch import OPERATIONS
from kernels.gated_rms_norm import gated_rms_norm
from kernels.grouped_linear import grouped_linear
from kernels.mamba2_step import mamba2_step
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan, selective_scan_step
from kernels.ssd import ssd, ssd_step

Case = tuple[str, str, Callable[[], Any]]  # the operation, its size in words, a call
EPS = 1e-5


def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def positive(*shape: int) -> Tensor:
    return torch.rand(*shape, device="cuda") * 0.1


def scan_inputs(b: int, t: int, h: int = 32, p: int = 128, n: int = 128) -> list[Tensor]:
    """x, dt, A, B, C, D; x, B and C are slices of one tensor, as the module has them."""
    x, B, C = make(b, t, h * p + 2 * n).split([h * p, n, n], -1)
    return [x.unflatten(-1, (h, p)), positive(b, t, h), -positive(h), B.unsqueeze(2), C.unsqueeze(2), make(h)]


def cases() -> list[Case]:
    found: list[Case] = []

    def case(operation: str, words: str, call: Callable[[], Any]) -> None:
        found.append((operation, words, call))

    for b, t in ((1, 8192), (4, 512), (4, 8192)):
        inputs = scan_inputs(b, t)
        case("ssd", f"{b} x {t}, 32 heads of 128, state 128", lambda inputs=inputs: ssd(*inputs, chunk_size=256))  # type: ignore[misc]
    for b in (1, 4, 64):
        one, state = scan_inputs(b, 1), positive(b, 32, 128, 128)
        case("ssd_step", f"batch {b}", lambda one=one, state=state: ssd_step(*one, state))  # type: ignore[misc]
        row, conv, vectors = make(b, 4096 + 4352 + 32), make(b, 3, 4352), [make(32) for _ in range(3)]
        step = (row, conv, state, make(4352, 4), make(4352), *vectors)
        case("mamba2_step", f"batch {b}", lambda step=step: mamba2_step(*step, n_groups=1))  # type: ignore[misc]
    x, weight, bias = make(4, 8192, 4352), make(4352, 4), make(4352)
    case("causal_conv1d", "4 x 8192 x 4352", lambda: causal_conv1d(x, weight, bias))
    y, z, scale = make(4, 8192, 4096), make(4, 8192, 4096), make(4096)
    case("gated_rms_norm", "4 x 8192 x 4096", lambda: gated_rms_norm(y, z, scale, EPS))
    case("rms_norm", "4 x 8192 x 4096, residual", lambda: rms_norm(y, scale, EPS, z))
    case("branch_fusion", "4 x 8192 x 4096", lambda: fused_branches(y, y, z, scale, scale, EPS, groups=(128, 128), fusion="diff"))
    q, k = make(1, 8192, 32, 64), make(1, 8192, 8, 64)
    case("attention", "1 x 8192, 32 heads of 64 over 8", lambda: attention(q, k, k))
    case("attention", "the same, window 512, sink 64", lambda: attention(q, k, k, window=512, sink=64))
    wide_q, wide_k, wide_v = make(1, 8192, 16, 72), make(1, 8192, 4, 72), make(1, 8192, 4, 128)
    case("attention", "1 x 8192, 16 heads of 72 and 128 over 4", lambda: attention(wide_q, wide_k, wide_v))
    one_q, held = make(4, 1, 32, 64), make(4, 32768, 8, 64)
    case("attention", "4 queries over 32768 keys", lambda: attention(one_q, held, held))
    x1, dt1, A1, B1, D1 = make(1, 8192, 4096), positive(1, 8192, 4096), -positive(4096, 16), make(1, 8192, 16), make(4096)
    case("selective_scan", "1 x 8192 x 4096, state 16", lambda: selective_scan(x1, dt1, A1, B1, B1, D1))
    state1 = positive(1, 4096, 16)
    one1 = (x1[:, :1], dt1[:, :1], A1, B1[:, :1], B1[:, :1], D1, state1)
    case("selective_scan_step", "1 x 4096, state 16", lambda: selective_scan_step(*one1))
    rows, experts, counts = make(8192, 2048), make(8, 4096, 2048), torch.full((8,), 1024, device="cuda")
    case("grouped_linear", "8192 rows, 8 experts of 2048 x 4096", lambda: grouped_linear(rows, experts, counts))
    return found


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operations", nargs="*")
    parser.add_argument("--segments", action="store_true")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    for operation, words, call in cases():
        if not args.operations or operation in args.operations:
            print(f"{operation}, {words}: {side_by_side(operation, call)}", flush=True)
    if args.segments:
        segments()


def side_by_side(operation: str, call: Callable[[], Any]) -> str:
    """Milliseconds of each implementation, Triton first."""
    times: dict[str, float] = {}
    said = []
    for name in sorted(OPERATIONS[operation].implementations, reverse=True, key=lambda name: name == "triton"):
        try:
            with use(operation, name):
                times[name] = triton.testing.do_bench(call, return_mode="median")
            ratio = f" ({times[name] / times['triton']:.2f} x)" if name != "triton" and "triton" in times else ""
            said.append(f"{name} {times[name]:.3f} ms{ratio}")
        except (RuntimeError, torch.cuda.OutOfMemoryError, ImportError) as error:
            said.append(f"{name}: {str(error).splitlines()[0]}")
    return ", ".join(said)


def segments() -> None:
    """The scan of one sequence, cut into more and fewer segments."""
    from kernels.ssd.triton_kernel import _forward

    inputs = scan_inputs(1, 8192)
    for n in (1, 2, 4, 8, 16):
        ms = triton.testing.do_bench(lambda n=n: _forward(*inputs, 256, None, n), return_mode="median")
        print(f"ssd in {n} segments: {ms:.3f} ms")


if __name__ == "__main__":
    main()
