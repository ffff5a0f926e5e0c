"""What the device at hand really does: dense peak, memory reads, and a rate for each kind of work
that a model is made of.

Each rate is measured through the operation that the modules use, on shapes like those of a 350M
model, in about half a minute."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.modules.cache import TORCH_DTYPES
from hybrid_core.live.modules.decode import captured, decoder
from hybrid_core.live.modules.model import build
from hybrid_core.live.profiling.device import describe, free_memory
from hybrid_core.live.profiling.throughput import decode_steps, filled_cache, repeat, step_work
from hybrid_core.mixers.registry import WRITTEN, composable
from hybrid_core.speed.hardware import Hardware, PeakFlops, Rates, Source, calibration_key
from kernels.attention import attention, attention_step
from kernels.ssd import ssd, ssd_step

ROWS = (1, 2, 4, 8, 16, 64, 256, 1024)


def _best_s(work: Callable[[], object], device: torch.device, budget_s: float = 0.6) -> float:
    """The quickest of a few repeats: other work on the machine only ever adds. On CUDA out of a
    graph, as decode runs: what Python takes to call small kernels would else be most of it."""
    if device.type == "cuda":
        work = captured(work, work, device)
    return min(repeat(work, device, budget_s, most=7, least=3).seconds)


class Calibration:
    """Measures one device in one dtype."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self.device, self.name, self.dtype = device, dtype, TORCH_DTYPES[dtype]
        self.large = 4 if device.type == "cuda" else 1  # GPUs need more work to be busy

    def _random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.rand(*shape, device=self.device).to(dtype or self.dtype)

    def peak_and_bandwidth(self) -> dict[str, Any]:
        """FLOP/s of a square matrix product, as large as a twentieth of a second allows, and
        bytes/s of reading a float32 matrix once.

        `fp32_times`: how many times as fast the same product is in float32; a CPU without bf16
        products is a hundred times as fast."""
        size, largest = 256, 2048 * self.large
        while size < largest and self._product_s(size, self.dtype, 0.0) < 0.05:
            size *= 2
        product_s = self._product_s(size, self.dtype, 1.5)
        fp32_s = (
            product_s if self.dtype == torch.float32 else self._product_s(size, torch.float32, 0.3)
        )
        wide = torch.ones(2**13, 2**13 * self.large, device=self.device)
        vector = torch.ones(wide.shape[1], device=self.device)
        read_s = _best_s(lambda: wide @ vector, self.device)
        rates = {"flops_per_s": 2 * size**3 / product_s, "bytes_per_s": wide.nbytes / read_s}
        return rates | {"dtype": self.name, "matrix": size, "fp32_times": product_s / fp32_s}

    def _product_s(self, size: int, dtype: torch.dtype, budget_s: float) -> float:
        """Seconds of one product of two square matrices."""
        a, b = self._random(size, size, dtype=dtype), self._random(size, size, dtype=dtype)
        return _best_s(
            lambda: F.linear(a, b), self.device, budget_s
        )  # as the modules multiply; on a CPU a @ b can be slower

    def linear(self) -> tuple[tuple[int, float], ...]:
        """Seconds per weight against rows. Several matrices take turns, so that no cache holds them
        all."""
        d_in, d_out, n = 2048, 8192, 4 * self.large
        weights = [self._random(d_out, d_in) for _ in range(n)]

        def seconds(rows: int) -> float:
            x = self._random(rows, d_in)
            return _best_s(lambda: [F.linear(x, weight) for weight in weights], self.device)

        return tuple((rows, seconds(rows) / (n * d_in * d_out)) for rows in ROWS)

    def attention(self) -> tuple[float, float]:
        """FLOP/s of causal prefill over the pairs that the mask lets through: all of them, and
        within a window."""
        t, h, d, window = 1024 * self.large, 16, 64, 512
        q, k = self._random(1, t, h, d), self._random(1, t, h // 4, d)
        pair = 4 * h * d
        whole = pair * t * (t + 1) // 2 / _best_s(lambda: attention(q, k, k), self.device)
        seen = sum(min(i, window) for i in range(1, t + 1))
        return whole, pair * seen / _best_s(lambda: attention(q, k, k, window=window), self.device)

    def kv(self) -> float:
        """Bytes/s at which one query per sequence reads its keys and values; caches take turns, so
        that no faster memory holds them."""
        slots, q = 8192, self._random(4, 1, 32, 64)
        full = torch.tensor(slots, device=self.device)
        caches = [[self._random(4, slots, 8, 64) for _ in "kv"] for _ in range(self.large**2)]
        n_bytes = sum(held.nbytes for cache in caches for held in cache)
        return n_bytes / _best_s(
            lambda: [attention_step(q, k, v, full) for k, v in caches], self.device
        )

    def scan(self) -> tuple[float, float]:
        """FLOP/s of the chunked scan, and bytes/s of the state (read and written) in single
        steps."""
        b, t, h, p, n, chunk = 1, 1024 * self.large, 16, 128, 128, 128
        x, dt, a, bc = (
            self._random(b, t, h, p),
            self._random(b, t, h, dtype=torch.float32),
            -self._random(h),
            self._random(b, t, 1, n),
        )
        per_chunk = 2 * chunk**2 * n + h * (2 * chunk**2 * p + 4 * chunk * n * p + 2 * n * p)
        flops = (
            t
            // chunk
            * per_chunk
            / _best_s(lambda: ssd(x, dt, a, bc, bc, a, chunk_size=chunk), self.device)
        )
        states = [torch.zeros(4, h, p, n, device=self.device) for _ in range(8 * self.large**2)]
        one = (
            self._random(4, 1, h, p),
            self._random(4, 1, h, dtype=torch.float32),
            a,
            self._random(4, 1, 1, n),
            self._random(4, 1, 1, n),
            a,
        )
        steps_s = _best_s(lambda: [ssd_step(*one, state) for state in states], self.device)
        return flops, 2 * sum(state.nbytes for state in states) / steps_s

    def elementwise(self) -> float:
        """Bytes/s, read and written, of a chain of elementwise operations on tensors larger than
        the caches."""
        gate, up = self._random(2048 * self.large, 8192), self._random(2048 * self.large, 8192)
        return 5 * gate.nbytes / _best_s(lambda: F.silu(gate) * up, self.device)

    def calls(self) -> dict[str, float]:
        """Seconds of one decode step per layer of each kind, on layers so small that only the calls
        cost."""
        return {name: self._step_s(spec) / spec.n_layers for name, spec in tiny_designs().items()}

    def _step_s(self, spec: ArchSpec) -> float:
        model = build(spec, self.device, self.dtype)
        cache = filled_cache(model, 1, 8, "bf16", "fp32")
        step = step_work(decoder(model, cache), cache, 8)
        return min(decode_steps(step, self.device, 0.5).seconds)

    def run(self, report: Callable[[str], None] = lambda message: None) -> Hardware:
        """All rates, as a device that the roofline takes."""
        report("dense peak and memory reads")
        ceilings = self.peak_and_bandwidth()
        report("matrix products by rows")
        linear = self.linear()
        report("attention, scans, elementwise work")
        (whole, window), (scan, state) = self.attention(), self.scan()
        kv, elementwise = self.kv(), self.elementwise()
        report("calls")
        calls = self.calls()
        free_memory(self.device)
        rates = Rates(
            dtype=self.name,
            linear=linear,
            attention_flops_per_s=whole,
            window_flops_per_s=window,
            scan_flops_per_s=scan,
            kv_bytes_per_s=kv,
            state_bytes_per_s=state,
            elementwise_bytes_per_s=elementwise,
            call_s=calls,
        )
        return as_hardware(self.device, ceilings).model_copy(update={"rates": rates})


def tiny_designs() -> dict[str, ArchSpec]:
    """For each kind of layer a design of eight such layers, so narrow that a step is nothing but
    calls."""
    base = presets.get(presets.FIRST).spec.replace(
        vocab_size=16,
        d_model=16,
        attention={"n_heads": 2, "n_kv_heads": 2, "head_dim": 8},
        ssm={"d_ssm": 32, "head_dim": 8, "d_state": 8},
        intra={"n_heads": 2, "n_kv_heads": 1, "qk_head_dim": 8, "v_head_dim": 8, "d_ssm": 16},
        diff={},
        ffn={"kind": "swiglu", "d_ff": 16},
        n_layers=8,
    )
    letters = [letter for letter, kind in WRITTEN.items() if kind.entry.sections]
    others = composable(base.d_model)
    kinds = {}
    for letter in (*letters, *others):
        mixers = {letter: others[letter]} if letter in others else {}
        spec = base.replace(layers={"pattern": 8 * letter}, mixers=mixers)
        kinds[spec.stack[0].mixer.kind] = spec
    return kinds


def as_hardware(device: torch.device, ceilings: dict[str, Any]) -> Hardware:
    """Measured ceilings in the form that the roofline takes. One dtype was measured; the other
    peaks repeat it."""
    found, peak = describe(device), ceilings["flops_per_s"]
    return Hardware(
        key=calibration_key(str(device), ceilings["dtype"]),
        name=f"This machine: {found['name']} ({ceilings['dtype']}, measured)",
        kind="gpu" if device.type == "cuda" else "cpu",
        memory_bytes=found["memory_bytes"],
        bandwidth_bytes_per_s=ceilings["bytes_per_s"],
        peak_flops_per_s=PeakFlops(fp32=peak, bf16=peak, fp16=peak, fp8=None),
        tdp_w=1.0,
        sources=(
            Source(
                fields=("peak_flops_per_s", "bandwidth_bytes_per_s"),
                text=f"measured in {ceilings['dtype']} on this machine",
                url="",
            ),
        ),
    )
