"""Compare predicted and measured speed on this machine: `python -m benchmarks.predictions`.

--dtype and --scale choose the number format (fp32) and the size of the designs (350m). The script
calibrates, then measures prefill and decode of the five designs of Table 2 at several lengths and
batch sizes. It prints the error of each prediction, and their median and maximum. Run it on a quiet
machine.
"""

import argparse
import statistics
from collections.abc import Iterator
from typing import NamedTuple

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
DECODES = ((1, 512), (1, 2048), (1, 8192), (4, 512), (4, 2048), (4, 8192))


class Compared(NamedTuple):
    """A prediction and its measurement; `tokens` are those of the prompt or of the context."""

    what: str
    batch_size: int
    tokens: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


def workload(batch_size: int, tokens: int, dtype: str) -> Workload:
    """Weights and cache both in `dtype`."""
    return Workload(
        batch_size=batch_size,
        context_len=tokens,
        weight_dtype=dtype,
        kv_cache_dtype=dtype,
    )


def cases(model: HybridLM, dtype: str, device: Hardware) -> Iterator[Compared]:
    """Every prefill and every decode step of one model."""
    torch_device = model.embed.weight.device
    for batch, prompt in PREFILLS:
        work = workload(batch, prompt, dtype)
        once = throughput.prefill_work(model, batch, prompt, dtype, work.scan_dtype)
        measured_s = min(throughput.prefill(once, torch_device, 12).seconds)
        predicted_s = float(predict(model.spec, work, device).prefill_s)
        yield Compared("prefill", batch, prompt, measured_s, predicted_s)
    for batch, context in DECODES:
        work = workload(batch, context, dtype)
        cache = throughput.filled_cache(model, batch, context, dtype, work.scan_dtype)
        step = throughput.step_work(decoder(model, cache), cache, context)
        timing = throughput.decode_steps(step, torch_device, 1.5)
        measured_s = statistics.median(timing.seconds)
        predicted_s = float(predict(model.spec, work, device).decode_step_s)
        yield Compared("decode", batch, context, measured_s, predicted_s)


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
        spec = presets.get(f"{name}-{arguments.scale}").spec
        model = build(spec, torch_device, TORCH_DTYPES[arguments.dtype])
        for case in cases(model, arguments.dtype, device):
            errors.append(abs(case.error))
            size = f"{case.batch_size:>6}{case.tokens:>8}"
            seconds = f"{case.measured_s:>12.4f}{case.predicted_s:>13.4f}"
            row = f"{spec.name:18}{case.what:9}{size}{seconds}{case.error:>+8.0%}"
            print(row, flush=True)
    median = statistics.median(errors)
    worst = max(errors)
    print(f"median error {median:.1%}, worst {worst:.1%}, {len(errors)} predictions")


if __name__ == "__main__":
    main()
