"""FLOPs of a design, counted on the instantiated model by two independent counters.

The model is on the meta device: shapes without data. torch's FlopCounterMode sees every operation
that is dispatched; fvcore walks the graph that torch.jit traces. Both use the formulas registered
in kernels/ for custom operations. An operation without a formula fails the trace, unless it is
known to contain no matrix product. So nothing counts as zero by accident.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from hybrid_core.costs.model import ModelCosts
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.results import profile as results
from kernels.counting import fvcore_handles

# Operations without a matrix product or a scan. By convention they count as zero.
_ELEMENTWISE = """
    add add_ addcmul clamp clamp_min cos div exp eq floor_divide ge gelu gt le lt masked_fill mul
    neg pow relu rsqrt rsub sigmoid silu sin softmax _softmax softplus square sub where
"""
_REDUCTIONS = """
    argsort cumsum linalg_vector_norm max mean _fused_rms_norm native_rms_norm one_hot rms_norm
    sort sum topk
"""
_MOVES = """
    alias arange as_strided cat chunk clone contiguous copy copy_ detach embedding empty empty_like
    expand fill_ flatten full gather index index_add index_select lift_fresh new_empty new_zeros
    numel ones permute repeat_interleave reshape scalar_tensor scatter scatter_ select size slice
    split split_with_sizes squeeze stack t to _to_copy to_copy transpose unbind unflatten
    _unsafe_view unsqueeze view view_as zeros zeros_like
"""
UNCOUNTED = frozenset(f"{_ELEMENTWISE} {_REDUCTIONS} {_MOVES}".split())


class UnknownOperation(RuntimeError):
    """A counter met an operation for which it has no formula."""


class _OnlyKnown(TorchDispatchMode):
    """Fails on any operation without a FlopCounterMode formula that is not in `UNCOUNTED`."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        name = func._overloadpacket.__name__
        if func._overloadpacket not in flop_registry and name not in UNCOUNTED:
            raise UnknownOperation(
                f"FlopCounterMode does not know {func} - "
                "give it a formula (kernels/counting.py) or list it as uncounted"
            )
        return func(*args, **(kwargs or {}))


def count_torch(model: nn.Module, *inputs: Any) -> int:
    """FLOPs of `model(*inputs)` by torch's FlopCounterMode."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, _OnlyKnown():  # type: ignore[no-untyped-call]
        model(*inputs)
    return int(counter.get_total_flops())


def count_fvcore(model: nn.Module, *inputs: Any) -> int:
    """FLOPs of `model(*inputs)` by fvcore, doubled, because it counts a multiply-add as 1."""
    analysis = FlopCountAnalysis(model, inputs)
    analysis.unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    for name, handle in fvcore_handles().items():
        analysis.set_op_handle(name, handle)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        multiply_adds = analysis.total()
    unknown = _not_listed(analysis.unsupported_ops())
    if unknown:
        raise UnknownOperation(
            f"fvcore does not know {', '.join(unknown)} - "
            "give it a formula (kernels/counting.py) or list it as uncounted"
        )
    return int(2 * multiply_adds)


def _not_listed(operations: Iterable[str]) -> list[str]:
    """The operations, by fvcore's names such as "aten::fft_rfft", that are not in `UNCOUNTED`."""
    unknown = set()
    for name in operations:
        if name.split("::")[-1] not in UNCOUNTED:
            unknown.add(name)
    return sorted(unknown)


class _Step(nn.Module):
    """The decode step at a context of `context_len` tokens, as a module that fvcore can trace."""

    def __init__(self, model: HybridLM, context_len: int) -> None:
        super().__init__()
        self.model = model
        self.context_len = context_len
        # Created here, not in `forward`: running the meta tokens is not part of a step.
        self.cache = model.new_cache(1, context_len)

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        self.cache.length = self.context_len - 1
        logits: torch.Tensor = self.model(token, self.cache)
        return logits


def trace(spec: ArchSpec, seq_len: int) -> results.Trace:
    """FLOPs of one sequence by fvcore, by FlopCounterMode and by the exact closed form.

    `forward` is over seq_len tokens with all logits, `decode` is one step at seq_len tokens. Raises
    UnknownOperation.
    """
    model = build(spec, "meta", torch.bfloat16)
    costs = ModelCosts(spec)
    tokens = torch.empty(
        1,
        seq_len,
        dtype=torch.long,
        device="meta",
    )
    step = _Step(model, seq_len)
    return results.Trace(
        seq_len=seq_len,
        convention="traced",
        forward=_counts(model, tokens, int(costs.forward_flops(seq_len))),
        decode=_counts(step, tokens[:, :1], int(costs.decode_flops(seq_len))),
    )


def _counts(model: nn.Module, tokens: torch.Tensor, exact: int) -> results.Counts:
    """FLOPs of `model(tokens)` by both counters and by the closed form."""
    return results.Counts(
        fvcore=count_fvcore(model, tokens),
        torch=count_torch(model, tokens),
        exact=exact,
    )
