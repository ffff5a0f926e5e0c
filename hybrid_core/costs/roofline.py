"""What a device's ceilings allow: each layer takes the longer of its arithmetic and its memory traffic.

A ceiling, not a forecast: no launch overhead, no loss inside a kernel, weights and cache read once per step.
"""

from typing import NamedTuple

import numpy as np

from hybrid_core.costs import ffn, forecast
from hybrid_core.costs.model import LayerCosts, ModelCosts, model_costs
from hybrid_core.costs.terms import Num, lengths
from hybrid_core.hardware import Hardware
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import DTYPE_BYTES, Workload


class Prediction(NamedTuple):
    """Seconds and tokens/s at the ceiling. `decode_memory_share` is the share of the step's time in layers that wait for memory."""

    prefill_s: Num
    prefill_tokens_per_s: Num
    decode_step_s: Num
    decode_tokens_per_s: Num
    decode_memory_share: Num


def predict(spec: ArchSpec, workload: Workload, hardware: Hardware, context_len: Num = None) -> Prediction:
    """Prefill of the workload's prompt, and one decode step at `context_len` tokens (int or array; the workload's unless given)."""
    costs = model_costs(spec)
    context = workload.context_len if context_len is None else lengths(context_len)
    prompt = workload.prefill_len if context_len is None else context
    hardware.peak(workload.weight_dtype)  # says so where nothing is known about this dtype
    if hardware.rates:
        prefill_s = forecast.prefill_s(costs, workload, hardware.rates, prompt)
        step_s = memory_s = forecast.decode_step_s(costs, workload, hardware.rates, context)
    else:
        prefill_s = _prefill_s(costs, workload, hardware, prompt)
        step_s, memory_s = _decode_step_s(costs, workload, hardware, context)
    batch = workload.batch_size
    return Prediction(prefill_s, batch * prompt / prefill_s, step_s, batch / step_s, memory_s / step_s)


def generation_tokens_per_s(spec: ArchSpec, workload: Workload, hardware: Hardware, prompt_len: int, total_len: int) -> float:
    """The paper's protocol at the ceiling: batch * generated tokens / time, the step's time integrated over the context."""
    points = np.linspace(prompt_len, total_len, 65)
    steps_s = predict(spec, workload, hardware, points.astype(int)).decode_step_s
    mean_s = float(np.trapezoid(np.broadcast_to(steps_s, points.shape), points) / (total_len - prompt_len))
    return workload.batch_size / mean_s


def _seconds(flops: Num, n_bytes: Num, workload: Workload, hardware: Hardware) -> tuple[Num, Num]:
    """Time of one part, and that time again if memory is what it waits for (else 0)."""
    compute, memory = flops / hardware.peak(workload.weight_dtype), n_bytes / hardware.bandwidth_bytes_per_s
    return np.maximum(compute, memory), np.where(memory >= compute, memory, 0.0)


def _weight_bytes(layer: LayerCosts, workload: Workload, tokens: Num) -> Num:
    idle = ffn.params(layer.layer.ffn, layer.d_model) - ffn.params_read(layer.layer.ffn, layer.d_model, tokens)
    return (layer.params() - idle) * DTYPE_BYTES[workload.weight_dtype]


def _head(costs: ModelCosts, workload: Workload) -> tuple[int, int]:
    """FLOPs and bytes of one row of logits per sequence; the embedding's own rows are not worth counting."""
    vocab = costs.spec.vocab_size * costs.spec.d_model
    return workload.batch_size * int(costs.head_flops(1)), vocab * DTYPE_BYTES[workload.weight_dtype]


def _prefill_s(costs: ModelCosts, workload: Workload, hardware: Hardware, prompt: Num) -> Num:
    """Weights read once, cache written once."""
    batch = workload.batch_size
    total = _seconds(*_head(costs, workload), workload, hardware)[0]
    for layer, n in costs.distinct():
        flops = batch * sum(layer.forward_flops(prompt).values())
        n_bytes = _weight_bytes(layer, workload, batch * prompt) + batch * layer.cache_bytes(prompt, workload)
        total = total + n * _seconds(flops, n_bytes, workload, hardware)[0]
    return total


def _decode_step_s(costs: ModelCosts, workload: Workload, hardware: Hardware, context: Num) -> tuple[Num, Num]:
    """Weights and cache read once; a scan's state is also written back."""
    batch = workload.batch_size
    total, waiting = _seconds(*_head(costs, workload), workload, hardware)
    for layer, n in costs.distinct():
        flops = batch * sum(layer.decode_flops(context).values())
        cache = layer.cache_bytes(context, workload) + layer.state_bytes(workload)
        seconds, memory_s = _seconds(flops, _weight_bytes(layer, workload, batch) + batch * cache, workload, hardware)
        total, waiting = total + n * seconds, waiting + n * memory_s
    return total, waiting
