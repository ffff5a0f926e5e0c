"""Forecast of a design's time on a device with measured rates (`calibrate`): the sum of its parts,
each at its own rate.

The roofline is what a device's ceilings allow. The forecast is what the device reaches with the
operations that the modules use."""

import numpy as np

from hybrid_core.costs.model import LayerCosts, ModelCosts
from hybrid_core.speed.hardware import Rates
from hybrid_core.terms import Num, of_kind
from hybrid_core.workload import Workload


def prefill_s(
    costs: ModelCosts,
    workload: Workload,
    rates: Rates,
    prompt: Num,
) -> Num:
    """Seconds to prefill the batch, with one row of logits per sequence."""
    total = _linear_s(costs.head_flops(1) / 2, workload.batch_size, rates)
    for layer, n in costs.distinct():
        total = total + n * _layer_prefill_s(layer, workload, rates, prompt)
    return total


def decode_step_s(
    costs: ModelCosts,
    workload: Workload,
    rates: Rates,
    context: Num,
) -> Num:
    """Seconds of one decode step of the batch. The new token is token number `context`."""
    batch = workload.batch_size
    total = _linear_s(costs.head_flops(1) / 2, batch, rates)
    for layer, n in costs.distinct():
        state = layer.state_bytes(workload)
        kept = layer.read_bytes(context, workload) - state
        moved_s = batch * (kept / rates.kv_bytes_per_s + 2 * state / rates.state_bytes_per_s)
        weights_s = _weights_s(layer, batch, rates)
        calls_s = rates.calls_s(layer.kind.name)
        total = total + n * (weights_s + moved_s + calls_s)
    return total


def _layer_prefill_s(
    layer: LayerCosts,
    workload: Workload,
    rates: Rates,
    prompt: Num,
) -> Num:
    batch, width = workload.batch_size, workload.element_bytes
    flops = layer.mixer.forward_flops(prompt)
    attention_rate = np.where(
        layer.windowed(prompt), rates.window_flops_per_s, rates.attention_flops_per_s
    )
    mixing_s = batch * (
        of_kind(flops, "attention") / attention_rate
        + of_kind(flops, "scan") / rates.scan_flops_per_s
    )
    # Each byte of the workspaces is written and read. So is each byte of the residual stream, its
    # norm and the branch's output, both for the mixer and for the feed-forward.
    stream = width * prompt * layer.d_model
    mixer = layer.mixer.workspace(prompt, workload)
    feed_forward = layer.ffn.workspace(prompt, width)
    moved = mixer + feed_forward + 6 * stream
    elementwise_s = batch * 2 * moved / rates.elementwise_bytes_per_s
    return (
        _weights_s(layer, batch * prompt, rates)
        + mixing_s
        + elementwise_s
        + rates.calls_s(layer.kind.name)
    )


def _weights_s(layer: LayerCosts, rows: Num, rates: Rates) -> Num:
    """Seconds of all products with weights. The rows are split between the experts of a mixture, so
    each weight that is read is used for fewer rows."""
    mixer = of_kind(layer.mixer.decode_flops(1), "product") / 2
    read = layer.ffn.params_read(rows)
    used = rows * layer.ffn.active_params()
    feed_forward_s = _linear_s(read, used / read, rates) if layer.layer.ffn else 0.0
    return _linear_s(mixer, rows, rates) + feed_forward_s


def _linear_s(weights: Num, rows: Num, rates: Rates) -> Num:
    return weights * rates.weight_s(rows)
