"""The speed that a device's ceilings allow. Each layer takes as long as its arithmetic or its
memory traffic, whichever takes longer.

This is a ceiling, not a forecast. Launches are free, kernels are perfectly efficient, and weights
and cache are read once per step."""

from typing import NamedTuple

import numpy as np

from hybrid_core.costs.memory import Serving
from hybrid_core.costs.weights import storage
from hybrid_core.design.spec import ArchSpec
from hybrid_core.speed import forecast
from hybrid_core.speed.hardware import Hardware
from hybrid_core.terms import Num, lengths
from hybrid_core.workload import Workload


class Prediction(NamedTuple):
    """Seconds and tokens/s at the ceiling. `decode_memory_share`: the share of a decode step's time
    spent in memory-bound layers."""

    prefill_s: Num
    prefill_tokens_per_s: Num
    decode_step_s: Num
    decode_tokens_per_s: Num
    decode_memory_share: Num


def predict(
    spec: ArchSpec, workload: Workload, hardware: Hardware, context_len: Num | None = None
) -> Prediction:
    """Speed of the prefill of the workload's prompt, and of one decode step. `context_len`, an int
    or an array, replaces the workload's context and prompt."""
    return served_prediction(Serving(spec, workload), hardware, context_len)


def served_prediction(
    serving: Serving, hardware: Hardware, context_len: Num | None = None
) -> Prediction:
    """`predict` for an existing Serving."""
    costs, workload = serving.costs, serving.workload
    context: Num = workload.context_len
    prompt: Num = workload.prefill_len
    if context_len is not None:
        context = prompt = lengths(context_len)
    hardware.peak(workload.product_dtype)  # raises for a dtype without figures
    if hardware.rates:
        prefill_s = forecast.prefill_s(costs, workload, hardware.rates, prompt)
        step_s = memory_s = forecast.decode_step_s(costs, workload, hardware.rates, context)
    else:
        ceilings = _Ceilings(serving, hardware)
        prefill_s = ceilings.prefill_s(prompt)
        step_s, memory_s = ceilings.decode_step_s(context)
    batch = workload.batch_size
    return Prediction(
        prefill_s=prefill_s,
        prefill_tokens_per_s=batch * prompt / prefill_s,
        decode_step_s=step_s,
        decode_tokens_per_s=batch / step_s,
        decode_memory_share=memory_s / step_s,
    )


def generation_tokens_per_s(
    spec: ArchSpec, workload: Workload, hardware: Hardware, prompt_len: int, total_len: int
) -> float:
    """Ceiling throughput in the paper's protocol: batch * generated tokens / time. The time of a
    step is integrated over the context."""
    points = np.linspace(prompt_len, total_len, 65)
    steps_s = predict(spec, workload, hardware, points.astype(int)).decode_step_s
    curve = np.broadcast_to(steps_s, points.shape)
    mean_s = float(np.trapezoid(curve, points) / (total_len - prompt_len))
    return workload.batch_size / mean_s


def _product_peak(spec: ArchSpec, workload: Workload, hardware: Hardware) -> float:
    """Dense FLOP/s of the design's products. They run in fp8 if fp8 is the only narrow format and
    the device has fp8 units, else in the dtype that weights are unpacked to."""
    formats = {rule.format for rule in storage(spec, workload)}
    fp8 = hardware.peak_flops_per_s.fp8
    if formats == {"fp8"} and fp8:
        return fp8
    return hardware.peak(workload.product_dtype)


class _Ceilings:
    """Ceiling times, in seconds, of one design, workload and device."""

    def __init__(self, serving: Serving, hardware: Hardware) -> None:
        self.serving = serving
        self.flops_per_s = _product_peak(serving.spec, serving.workload, hardware)
        self.bytes_per_s = hardware.bandwidth_bytes_per_s

    def _seconds(self, flops: Num, n_bytes: Num) -> tuple[Num, Num]:
        """Seconds of one part, and the same again if it is memory-bound, else 0."""
        compute = flops / self.flops_per_s
        memory = n_bytes / self.bytes_per_s
        if isinstance(compute, np.ndarray) or isinstance(memory, np.ndarray):
            return np.maximum(compute, memory), np.where(memory >= compute, memory, 0.0)
        if memory >= compute:
            return memory, memory
        return compute, 0.0

    def _head_s(self) -> tuple[Num, Num]:
        """One row of logits per sequence. The few rows read from the embedding are ignored."""
        flops = self.serving.workload.batch_size * int(self.serving.costs.head_flops(1))
        return self._seconds(flops, self.serving.stored.head)

    def prefill_s(self, prompt: Num) -> Num:
        """Weights are read once, and the cache is written once."""
        workload = self.serving.workload
        batch = workload.batch_size
        seconds, _ = self._head_s()
        all_flops = self.serving.forward_flops(prompt)
        for layer, flops in zip(self.serving.layers, all_flops, strict=True):
            weights = layer.weights.read(layer.costs, batch * prompt)
            cache = batch * layer.costs.cache_bytes(prompt, workload)
            layer_s, _ = self._seconds(batch * flops, weights + cache)
            seconds = seconds + layer.n * layer_s
        return seconds

    def decode_step_s(self, context: Num) -> tuple[Num, Num]:
        """Weights and cache are read once; each layer that reuses a cache reads it too. A scan's
        state is also written back."""
        workload = self.serving.workload
        batch = workload.batch_size
        seconds, waiting = self._head_s()
        all_flops = self.serving.decode_flops(context)
        for layer, flops in zip(self.serving.layers, all_flops, strict=True):
            cache = layer.costs.read_bytes(context, workload) + layer.state_bytes
            weights = layer.weights.read(layer.costs, batch)
            layer_s, memory_s = self._seconds(batch * flops, weights + batch * cache)
            seconds = seconds + layer.n * layer_s
            waiting = waiting + layer.n * memory_s
        return seconds, waiting
