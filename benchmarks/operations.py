"""The implementations of every operation side by side on a CUDA device.

`python -m benchmarks.operations [OPERATION ...] [--segments]` prints the median milliseconds of
each, in bf16 at the sizes of the 1B designs, and the difference of its results from eager torch. An
implementation that cannot run, or gives wrong results, is reported and not timed.
flash-linear-attention's operations are timed, too, if it can be imported. --segments times the SSD
scan cut into 1 to 16 segments.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from benchmarks import fla_operations
from benchmarks.record import Result, Step, in_one_line
from benchmarks.side_by_side import Mismatch, best
from hybrid_core.live.profiling.device import resolve
from kernels.attention import attention, attention_step
from kernels.branch_fusion import fused_branches
from kernels.causal_conv1d import causal_conv1d
from kernels.dispatch import OPERATIONS, use
from kernels.gated_rms_norm import gated_rms_norm
from kernels.grouped_linear import grouped_linear
from kernels.mamba2_step import mamba2_step
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan, selective_scan_step
from kernels.ssd import ssd, ssd_step

TOLERANCE = 2e-2  # of bf16 results, relative to the norm
EPS = 1e-5
TOKENS = 8192


class Case(NamedTuple):
    """A call of an operation."""

    operation: str
    words: str  # its size
    function: Callable[..., Any]
    arguments: Callable[[], Sequence[Any]]  # makes the arguments on torch's default device
    options: dict[str, Any]

    @property
    def implementations(self) -> tuple[str, ...]:
        """Ours, and flash-linear-attention's if it computes the same."""
        ours = OPERATIONS[self.operation].implementations
        if self.operation in fla_operations.OPERATIONS and "window" not in self.options:
            return (*ours, "fla")
        return ours

    def results(self, implementation: str, arguments: Sequence[Any]) -> list[Tensor]:
        """The results of a call, and its arguments after the call, all in float32.

        The arguments are copies. Some operations update a state in place, which is a result, too.
        """
        copies = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
        out = self.call(implementation, copies)
        outs = out if isinstance(out, tuple) else (out,)
        return [x.float() for x in (*outs, *copies) if isinstance(x, Tensor)]

    def call(self, implementation: str, arguments: Sequence[Any]) -> Any:
        """Results of one implementation."""
        if implementation == "fla":
            return fla_operations.OPERATIONS[self.operation](*arguments, **self.options)
        with use(self.operation, implementation):
            return self.function(*arguments, **self.options)


def make(*shape: int) -> Tensor:
    """Normal values."""
    return torch.randn(*shape).to(torch.bfloat16)


def positive(*shape: int) -> Tensor:
    """Small values in float32."""
    return torch.rand(*shape) * 0.1


def scan_inputs(
    b: int,
    t: int,
    h: int = 32,
    p: int = 128,
    n: int = 128,
) -> list[Tensor]:
    """x, dt, A, B, C, D; x, B and C are slices of one tensor, as in the module."""
    x, B, C = make(b, t, h * p + 2 * n).split([h * p, n, n], -1)
    return [
        x.unflatten(-1, (h, p)),
        positive(b, t, h),
        -positive(h),
        B.unsqueeze(2),
        C.unsqueeze(2),
        make(h),
    ]


def step_inputs(b: int) -> list[Tensor]:
    """The inputs of a scan for one token, and the state."""
    return [*scan_inputs(b, 1), positive(b, 32, 128, 128)]


def mamba2_inputs(b: int) -> list[Tensor]:
    """zxbcdt, both states, the convolution's weight and bias, and dt_bias, A_log, D."""
    return [
        make(b, 4096 + 4352 + 32),
        make(b, 3, 4352),
        positive(b, 32, 128, 128),
        make(4352, 4),
        make(4352),
        make(32),
        make(32),
        make(32),
    ]


def attention_inputs(
    t: int,
    heads: int,
    kv_heads: int,
    width: int,
    v_width: int,
) -> list[Tensor]:
    """Queries, keys and values of one sequence."""
    return [make(1, t, heads, width), make(1, t, kv_heads, width), make(1, t, kv_heads, v_width)]


def held_inputs(slots: int, length: int) -> list[Tensor]:
    """One query for each of four sequences, their caches, and how many slots hold tokens."""
    return [make(4, 1, 32, 64), make(4, slots, 8, 64), make(4, slots, 8, 64), torch.tensor(length)]


def selective_inputs(t: int) -> list[Tensor]:
    """x, dt, A, B, C, D of Mamba-1."""
    return [
        make(1, t, 4096),
        positive(1, t, 4096),
        -positive(4096, 16),
        make(1, t, 16),
        make(1, t, 16),
        make(4096),
    ]


def expert_inputs(rows: int) -> list[Tensor]:
    """Rows, the weights of eight experts, and how many rows each gets."""
    return [make(rows, 2048), make(8, 4096, 2048), torch.full((8,), rows // 8)]


def cases(tokens: int = TOKENS) -> Iterator[Case]:
    """Every operation at the sizes of the 1B designs, over sequences of `tokens`.

    A case allocates its tensors when it runs.
    """

    def case(
        operation: str,
        words: str,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[Any]],
        **options: Any,
    ) -> Case:
        return Case(operation, words, function, arguments, options)

    for b, t in ((1, tokens), (4, tokens // 16), (4, tokens)):
        yield case(
            "ssd",
            f"{b} x {t}, 32 heads of 128, state 128",
            ssd,
            partial(scan_inputs, b, t),
            chunk_size=256,
        )
    for b in (1, 4, 64):
        yield case("ssd_step", f"batch {b}", ssd_step, partial(step_inputs, b))
        yield case("mamba2_step", f"batch {b}", mamba2_step, partial(mamba2_inputs, b), n_groups=1)
    yield case(
        "causal_conv1d",
        f"4 x {tokens} x 4352",
        causal_conv1d,
        lambda: (make(4, tokens, 4352), make(4352, 4), make(4352)),
    )
    words, wide = f"4 x {tokens} x 4096", (4, tokens, 4096)
    yield case(
        "gated_rms_norm", words, gated_rms_norm, lambda: (make(*wide), make(*wide), make(4096), EPS)
    )
    yield case(
        "rms_norm",
        f"{words}, residual",
        rms_norm,
        lambda: (make(*wide), make(4096), EPS, make(*wide)),
    )
    branches = {"groups": (128, 128), "fusion": "diff"}
    fused = lambda: (make(*wide), make(*wide), make(*wide), make(4096), make(4096), EPS)  # noqa: E731
    yield case("branch_fusion", words, fused_branches, fused, **branches)
    heads = partial(attention_inputs, tokens, 32, 8, 64, 64)
    yield case("attention", f"1 x {tokens}, 32 heads of 64 over 8", attention, heads)
    yield case(
        "attention",
        f"1 x {tokens}, 32 heads of 64 over 8, window 512, sink 64",
        attention,
        heads,
        window=512,
        sink=64,
    )
    unlike = partial(attention_inputs, tokens, 16, 4, 72, 128)
    yield case("attention", f"1 x {tokens}, 16 heads of 72 and 128 over 4", attention, unlike)
    for length in (tokens // 4, 4 * tokens):
        words = f"4 queries over {length} of {4 * tokens} keys"
        yield case(
            "attention_step", words, attention_step, partial(held_inputs, 4 * tokens, length)
        )
    yield case(
        "selective_scan",
        f"1 x {tokens} x 4096, state 16",
        selective_scan,
        partial(selective_inputs, tokens),
    )
    yield case(
        "selective_scan_step",
        "1 x 4096, state 16",
        selective_scan_step,
        lambda: [*selective_inputs(1), positive(1, 4096, 16)],
    )
    yield case(
        "grouped_linear",
        f"{tokens} rows, 8 experts of 2048 x 4096",
        grouped_linear,
        partial(expert_inputs, tokens),
    )


def steps(
    device: torch.device,
    names: Sequence[str] = (),
    tokens: int = TOKENS,
) -> dict[str, Step]:
    """A step for every case and implementation of the operations `names` (default: all of them)."""
    found = {}
    for case in cases(tokens):
        if names and case.operation not in names:
            continue
        for name in case.implementations:
            words = f"{case.operation}, {case.words}: {name}"
            found[words] = partial(timed, case, name, device)
    return found


@torch.inference_mode()
def timed(case: Case, implementation: str, device: torch.device) -> Result:
    """Median milliseconds of one implementation, and the difference of its results from eager
    torch.

    Raises Mismatch if the difference is too large.
    """
    with (
        torch.device(device),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
    ):
        torch.manual_seed(0)
        arguments = case.arguments()
        # Without names, so that the results are freed before anything is timed.
        difference = largest_difference(
            case.results(implementation, arguments),
            case.results("eager", arguments),
        )
        if not difference <= TOLERANCE:
            raise Mismatch(
                f"{implementation} differs from eager torch by {difference:.1e}, "
                f"{TOLERANCE:.0e} is allowed; not timed"
            )
        ms = milliseconds(lambda: case.call(implementation, arguments), device)
    print(f"{case.operation}, {case.words}: {implementation} {ms:.3f} ms", flush=True)
    return {
        "operation": case.operation,
        "size": case.words,
        "implementation": implementation,
        "ms": ms,
        "difference": difference,
    }


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of two tensors, relative to the norm of the expected one."""
    differences = []
    for one, truth in zip(found, expected, strict=True):
        if truth.norm() > 0:
            differences.append(float((one - truth).norm() / truth.norm()))
    return max(differences)


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """The median on a CUDA device, with cold caches.

    Elsewhere it is the best of three: that is a dry run, and its time means nothing.
    """
    if device.type == "cuda":
        return float(triton.testing.do_bench(work, return_mode="median"))
    return 1000 * best({"work": work}, 3)["work"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operations", nargs="*")
    parser.add_argument("--segments", action="store_true")
    args = parser.parse_args()
    device = resolve("cuda")
    print(
        torch.cuda.get_device_name(),
        "torch",
        torch.__version__,
        "triton",
        triton.__version__,
    )
    for name, step in steps(device, args.operations).items():
        try:
            step()
        except Exception as error:
            print(f"{name}: not timed - {in_one_line(error)}", flush=True)
    if args.segments:
        with torch.device(device):
            segments()


@torch.inference_mode()
def segments() -> None:
    """Print the time of the scan of one sequence cut into 1 to 16 segments."""
    from kernels.ssd.triton_kernel import _forward

    inputs = scan_inputs(1, TOKENS)
    for n in (1, 2, 4, 8, 16):
        ms = triton.testing.do_bench(
            lambda n=n: _forward(*inputs, 256, None, n), return_mode="median"
        )
        print(f"ssd in {n} segments: {ms:.3f} ms")


if __name__ == "__main__":
    main()
