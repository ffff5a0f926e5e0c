"""What a device's ceilings allow: each layer takes the longer of its arithmetic and its memory
traffic.

A ceiling, not a forecast: no launch overhead, no loss inside a kernel, weights and cache read once
per step."""

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
    """Seconds and tokens/s at the ceiling. `decode_memory_share` is the share of the step's time in
    layers that wait for memory."""

    prefill_s: Num
    prefill_tokens_per_s: Num
    decode_step_s: Num
    decode_tokens_per_s: Num
    decode_memory_share: Num


def predict(
    spec: ArchSpec, workload: Workload, hardware: Hardware, context_len: Num | None = None
) -> Prediction:
    """Prefill of the workload's prompt, and one decode step at `context_len` tokens (int or array;
    the workload's unless given)."""
    return served_prediction(Serving(spec, workload), hardware, context_len)


def served_prediction(
    serving: Serving, hardware: Hardware, context_len: Num | None = None
) -> Prediction:
    """`predict` of a design whose serving is known."""
    costs, workload = serving.costs, serving.workload
    context: Num = workload.context_len
    prompt: Num = workload.prefill_len
    if context_len is not None:
        context = prompt = lengths(context_len)
    hardware.peak(workload.product_dtype)  # refuses a dtype that nothing is known about
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
    """The paper's protocol at the ceiling: batch * generated tokens / time, the step's time
    integrated over the context."""
    points = np.linspace(prompt_len, total_len, 65)
    steps_s = predict(spec, workload, hardware, points.astype(int)).decode_step_s
    curve = np.broadcast_to(steps_s, points.shape)
    mean_s = float(np.trapezoid(curve, points) / (total_len - prompt_len))
    return workload.batch_size / mean_s


def _product_peak(spec: ArchSpec, workload: Workload, hardware: Hardware) -> float:
    """Dense FLOP/s of the design's products: in fp8 where all that is stored in fewer bits is fp8
    and the device has such units, else in the dtype that weights are unpacked to."""
    formats = {rule.format for rule in storage(spec, workload)}
    fp8 = hardware.peak_flops_per_s.fp8
    if formats == {"fp8"} and fp8:
        return fp8
    return hardware.peak(workload.product_dtype)


class _Ceilings:
    """The seconds of one design, workload and device."""

    def __init__(self, serving: Serving, hardware: Hardware) -> None:
        self.serving = serving
        self.flops_per_s = _product_peak(serving.spec, serving.workload, hardware)
        self.bytes_per_s = hardware.bandwidth_bytes_per_s

    def _seconds(self, flops: Num, n_bytes: Num) -> tuple[Num, Num]:
        """Time of one part, and that time again if memory is what it waits for (else 0)."""
        compute = flops / self.flops_per_s
        memory = n_bytes / self.bytes_per_s
        if isinstance(compute, np.ndarray) or isinstance(memory, np.ndarray):
            return np.maximum(compute, memory), np.where(memory >= compute, memory, 0.0)
        if memory >= compute:
            return memory, memory
        return compute, 0.0

    def _head_s(self) -> tuple[Num, Num]:
        """One row of logits per sequence; the embedding's own rows are not worth counting."""
        flops = self.serving.workload.batch_size * int(self.serving.costs.head_flops(1))
        return self._seconds(flops, self.serving.stored.head)

    def prefill_s(self, prompt: Num) -> Num:
        """Weights read once, cache written once."""
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
        """Weights and cache read once, a cache that several layers use by each of them; a scan's
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
