"""Predicted beside measured speed on the machine at hand: `python -m benchmarks.predictions
[--dtype fp32] [--scale 350m]`.

Calibrates, then measures prefill and decode of the five designs of Table 2 (at a scale that fits)
at several lengths and batches, and prints the error of each prediction, their median and the worst.
Run it on a quiet machine."""

import argparse
import statistics
from collections.abc import Iterator

from hybrid_core.design import presets
from hybrid_core.live.modules.cache import TORCH_DTYPES
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import throughput
from hybrid_core.live.profiling.calibrate import Calibration
from hybrid_core.live.profiling.device import resolve
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.workload import Workload

MODELS = ("llama", "swa-1to5", "mamba", "inter-1to5", "intra-1to5")
PREFILLS = ((1, 256), (1, 1024), (4, 256))
DECODES = tuple((batch, context) for batch in (1, 4) for context in (512, 2048, 8192))


def cases(
    model: HybridLM, dtype: str, device: Hardware
) -> Iterator[tuple[str, int, int, float, float]]:
    """(what, batch, tokens, measured seconds, predicted seconds)."""
    for batch, prompt in PREFILLS:
        work = Workload(
            batch_size=batch, context_len=prompt, weight_dtype=dtype, kv_cache_dtype=dtype
        )
        once = throughput.prefill_work(model, batch, prompt, dtype, work.scan_dtype)
        measured = min(throughput.prefill(once, model.embed.weight.device, 12).seconds)
        yield "prefill", batch, prompt, measured, float(predict(model.spec, work, device).prefill_s)
    for batch, context in DECODES:
        work = Workload(
            batch_size=batch, context_len=context, weight_dtype=dtype, kv_cache_dtype=dtype
        )
        cache = throughput.filled_cache(model, batch, context, dtype, work.scan_dtype)
        step = throughput.step_work(decoder(model, cache), cache, context)
        measured = statistics.median(
            throughput.decode_steps(step, model.embed.weight.device, 1.5).seconds
        )
        yield (
            "decode",
            batch,
            context,
            measured,
            float(predict(model.spec, work, device).decode_step_s),
        )


def main() -> None:
    """Calibrate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--scale", default="350m")
    arguments = parser.parse_args()
    torch_device = resolve(arguments.device)
    device = Calibration(torch_device, arguments.dtype).run()
    columns = f"{'batch':>6}{'tokens':>8}{'measured s':>12}{'predicted s':>13}{'error':>8}"
    print(f"{device.name}\n{'design':18}{'what':9}{columns}")
    errors = []
    for name in MODELS:
        model = build(
            presets.get(f"{name}-{arguments.scale}").spec,
            torch_device,
            TORCH_DTYPES[arguments.dtype],
        )
        for what, batch, tokens, measured, predicted in cases(model, arguments.dtype, device):
            errors.append(predicted / measured - 1)
            print(
                f"{model.spec.name:18}{what:9}{batch:>6}{tokens:>8}{measured:>12.4f}{predicted:>13.4f}{errors[-1]:>+8.0%}",
                flush=True,
            )
    sizes = [abs(error) for error in errors]
    median, worst = statistics.median(sizes), max(sizes)
    print(f"median error {median:.1%}, worst {worst:.1%}, {len(errors)} predictions")


if __name__ == "__main__":
    main()
