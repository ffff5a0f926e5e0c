"""Every operation's implementations side by side on a CUDA device: `python -m benchmarks.operations [OPERATION ...] [--segments]`.

Prints the median milliseconds of each, in bf16 at the sizes of the 1B designs, and how many times as long as Triton the others take.
An implementation that cannot run says why. --segments times the scan cut into other numbers of segments than its own choice.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels import use
from kernels.attention import attention, attention_step
from kernels.branch_fusion import fused_branches
from kernels.causal_conv1d import causal_conv1d
from kernels.dispatch import OPERATIONS
from kernels.gated_rms_norm import gated_rms_norm
from kernels.grouped_linear import grouped_linear
from kernels.mamba2_step import mamba2_step
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan, selective_scan_step
from kernels.ssd import ssd, ssd_step


class Case(NamedTuple):
    """A call of an operation, and its size in words."""

    operation: str
    words: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> Any:
        return self.function(*self.arguments, **self.options)

    def anew(self) -> list[Tensor]:
        """Results from copies of the arguments, states that the call leaves in place among them, in float32."""
        arguments = [x.clone() if isinstance(x, Tensor) else x for x in self.arguments]
        out = self.function(*arguments, **self.options)
        return [x.float() for x in (*(out if isinstance(out, tuple) else (out,)), *arguments) if isinstance(x, Tensor)]


TOLERANCE = 2e-2  # of bf16 results, relative to the norm
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

    def case(operation: str, words: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        found.append(Case(operation, words, function, arguments, options))

    for b, t in ((1, 8192), (4, 512), (4, 8192)):
        case("ssd", f"{b} x {t}, 32 heads of 128, state 128", ssd, *scan_inputs(b, t), chunk_size=256)
    for b in (1, 4, 64):
        state = positive(b, 32, 128, 128)
        case("ssd_step", f"batch {b}", ssd_step, *scan_inputs(b, 1), state)
        row, conv, vectors = make(b, 4096 + 4352 + 32), make(b, 3, 4352), [make(32) for _ in range(3)]
        case("mamba2_step", f"batch {b}", mamba2_step, row, conv, state, make(4352, 4), make(4352), *vectors, n_groups=1)
    case("causal_conv1d", "4 x 8192 x 4352", causal_conv1d, make(4, 8192, 4352), make(4352, 4), make(4352))
    y, z, scale = make(4, 8192, 4096), make(4, 8192, 4096), make(4096)
    case("gated_rms_norm", "4 x 8192 x 4096", gated_rms_norm, y, z, scale, EPS)
    case("rms_norm", "4 x 8192 x 4096, residual", rms_norm, y, scale, EPS, z)
    case("branch_fusion", "4 x 8192 x 4096", fused_branches, y, y, z, scale, scale, EPS, groups=(128, 128), fusion="diff")
    q, k = make(1, 8192, 32, 64), make(1, 8192, 8, 64)
    case("attention", "1 x 8192, 32 heads of 64 over 8", attention, q, k, k)
    case("attention", "the same, window 512, sink 64", attention, q, k, k, window=512, sink=64)
    wide_q, wide_k, wide_v = make(1, 8192, 16, 72), make(1, 8192, 4, 72), make(1, 8192, 4, 128)
    case("attention", "1 x 8192, 16 heads of 72 and 128 over 4", attention, wide_q, wide_k, wide_v)
    one_q, held = make(4, 1, 32, 64), make(4, 32768, 8, 64)
    for length in (2048, 32768):
        words = f"4 queries over {length} of 32768 keys"
        case("attention_step", words, attention_step, one_q, held, held, torch.tensor(length, device="cuda"))
    x1, dt1, A1, B1, D1 = make(1, 8192, 4096), positive(1, 8192, 4096), -positive(4096, 16), make(1, 8192, 16), make(4096)
    case("selective_scan", "1 x 8192 x 4096, state 16", selective_scan, x1, dt1, A1, B1, B1, D1)
    one = (x1[:, :1], dt1[:, :1], A1, B1[:, :1], B1[:, :1], D1)
    case("selective_scan_step", "1 x 4096, state 16", selective_scan_step, *one, positive(1, 4096, 16))
    rows, experts, counts = make(8192, 2048), make(8, 4096, 2048), torch.full((8,), 1024, device="cuda")
    case("grouped_linear", "8192 rows, 8 experts of 2048 x 4096", grouped_linear, rows, experts, counts)
    return found


@torch.inference_mode()
def compare(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every case of the operations named (all of them unless any is): one record each, and one line printed."""
    chosen = [case for case in cases() if not names or case.operation in names]
    return [{"operation": case.operation, "size": case.words} | side_by_side(case) for case in chosen]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operations", nargs="*")
    parser.add_argument("--segments", action="store_true")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    compare(args.operations)
    if args.segments:
        segments()


def side_by_side(case: Case) -> dict[str, Any]:
    """Milliseconds of each implementation, and how far its results are from eager torch's; what cannot run says why."""
    found: dict[str, Any] = {}
    with use(case.operation, "eager"):
        truth = case.anew()
    for name in OPERATIONS[case.operation].implementations:
        try:
            with use(case.operation, name):
                error = max(float((a - b).norm() / b.norm()) for a, b in zip(case.anew(), truth, strict=True) if b.norm() > 0)
                if error > TOLERANCE:
                    raise SystemExit(f"{case.operation}, {case.words}: {name} differs from eager torch by {error:.1e}, nothing measured")
                found[name] = {"ms": triton.testing.do_bench(case, return_mode="median"), "difference": error}
        except (RuntimeError, torch.cuda.OutOfMemoryError, ImportError) as problem:
            found[name] = {"why_not": str(problem).splitlines()[0]}
    fastest = found.get("triton", {}).get("ms")
    said = [in_words(name, of_it, fastest) for name, of_it in found.items()]
    print(f"{case.operation}, {case.words}: {', '.join(said)}", flush=True)
    return found


def in_words(name: str, found: dict[str, Any], triton_ms: float | None) -> str:
    """Milliseconds, and the ratio to Triton's."""
    if "why_not" in found:
        return f"{name}: {found['why_not']}"
    ratio = f" ({found['ms'] / triton_ms:.2f} x)" if triton_ms and name != "triton" else ""
    return f"{name} {found['ms']:.3f} ms{ratio}"


@torch.inference_mode()
def segments() -> None:
    """The scan of one sequence, cut into more and fewer segments."""
    from kernels.ssd.triton_kernel import _forward

    inputs = scan_inputs(1, 8192)
    for n in (1, 2, 4, 8, 16):
        ms = triton.testing.do_bench(lambda n=n: _forward(*inputs, 256, None, n), return_mode="median")
        print(f"ssd in {n} segments: {ms:.3f} ms")


if __name__ == "__main__":
    main()
