"""Measured rates of the device at hand.

The dense peak, memory reads, and a rate for each kind of work that a model is made of. Each rate is
measured through the operation that the modules use, on shapes like those of a 350M model. All of it
takes about half a minute.
"""

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


def _best_s(
    work: Callable[[], object],
    device: torch.device,
    budget_s: float = 0.6,
) -> float:
    """Seconds of the quickest of a few repeats, since other work on the machine only adds time.

    On CUDA the work is replayed from a graph, as decode is. Otherwise Python's calls of small
    kernels would be most of the time.
    """
    if device.type == "cuda":
        work = captured(work, work, device)
    timing = repeat(work, device, budget_s, most=7, least=3)
    return min(timing.seconds)


class Calibration:
    """Measures one device in one dtype."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self.device = device
        self.name = dtype
        self.dtype = TORCH_DTYPES[dtype]
        self.large = 4 if device.type == "cuda" else 1  # GPUs need more work to be busy

    def _random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.rand(*shape, device=self.device).to(dtype or self.dtype)

    def peak_and_bandwidth(self) -> dict[str, Any]:
        """FLOP/s of a square matrix product, and bytes/s of reading a float32 matrix once.

        The product is as large as a twentieth of a second allows. `fp32_times` says how many times
        as fast the same product is in float32: a hundred times on a CPU without bf16 products.
        """
        size = 256
        largest = 2048 * self.large
        while size < largest and self._product_s(size, self.dtype, 0.0) < 0.05:
            size *= 2
        product_s = self._product_s(size, self.dtype, 1.5)
        fp32_s = product_s
        if self.dtype != torch.float32:
            fp32_s = self._product_s(size, torch.float32, 0.3)
        wide = torch.ones(2**13, 2**13 * self.large, device=self.device)
        vector = torch.ones(wide.shape[1], device=self.device)
        read_s = _best_s(lambda: wide @ vector, self.device)
        return {
            "flops_per_s": 2 * size**3 / product_s,
            "bytes_per_s": wide.nbytes / read_s,
            "dtype": self.name,
            "matrix": size,
            "fp32_times": product_s / fp32_s,
        }

    def _product_s(
        self,
        size: int,
        dtype: torch.dtype,
        budget_s: float,
    ) -> float:
        """Seconds of one product of two square matrices."""
        a = self._random(size, size, dtype=dtype)
        b = self._random(size, size, dtype=dtype)
        # F.linear is what the modules use; on a CPU a @ b can be slower.
        return _best_s(lambda: F.linear(a, b), self.device, budget_s)

    def linear(self) -> tuple[tuple[int, float], ...]:
        """Seconds per weight of a linear layer, against rows.

        Several matrices take turns, so that no cache holds them all.
        """
        d_in = 2048
        d_out = 8192
        n = 4 * self.large
        weights = [self._random(d_out, d_in) for _ in range(n)]

        def seconds(rows: int) -> float:
            x = self._random(rows, d_in)
            return _best_s(lambda: [F.linear(x, weight) for weight in weights], self.device)

        return tuple((rows, seconds(rows) / (n * d_in * d_out)) for rows in ROWS)

    def attention(self) -> tuple[float, float]:
        """FLOP/s of causal prefill, without a window and with one.

        Only the pairs of query and key that the mask lets through are counted.
        """
        t = 1024 * self.large
        n_heads = 16
        head_dim = 64
        window = 512
        q = self._random(1, t, n_heads, head_dim)
        k = self._random(1, t, n_heads // 4, head_dim)
        pair_flops = 4 * n_heads * head_dim
        pairs = t * (t + 1) // 2
        whole_s = _best_s(lambda: attention(q, k, k), self.device)
        window_pairs = sum(min(i, window) for i in range(1, t + 1))
        window_s = _best_s(lambda: attention(q, k, k, window=window), self.device)
        return pair_flops * pairs / whole_s, pair_flops * window_pairs / window_s

    def kv(self) -> float:
        """Bytes/s at which one query per sequence reads its keys and values.

        Several caches take turns, so that no faster memory holds them.
        """
        slots = 8192
        q = self._random(4, 1, 32, 64)
        full = torch.tensor(slots, device=self.device)
        caches = []
        for _ in range(self.large**2):
            k = self._random(4, slots, 8, 64)
            v = self._random(4, slots, 8, 64)
            caches.append((k, v))
        n_bytes = sum(k.nbytes + v.nbytes for k, v in caches)

        def read_all() -> None:
            for k, v in caches:
                attention_step(q, k, v, full)

        return n_bytes / _best_s(read_all, self.device)

    def scan(self) -> tuple[float, float]:
        """FLOP/s of the chunked scan, and bytes/s of the state in single steps.

        A step reads the state and writes it; both are counted.
        """
        batch_size = 1
        t = 1024 * self.large
        h = 16
        p = 128
        n = 128
        chunk = 128
        x = self._random(batch_size, t, h, p)
        dt = self._random(batch_size, t, h, dtype=torch.float32)
        a = -self._random(h)
        bc = self._random(batch_size, t, 1, n)
        # Scores of a chunk once per group; then, for every head, their product with x, the states'
        # inputs and outputs, and the decay of the state.
        head_flops = 2 * chunk**2 * p + 4 * chunk * n * p + 2 * n * p
        chunk_flops = 2 * chunk**2 * n + h * head_flops
        scan_s = _best_s(lambda: ssd(x, dt, a, bc, bc, a, chunk_size=chunk), self.device)
        flops_per_s = t // chunk * chunk_flops / scan_s
        states = [torch.zeros(4, h, p, n, device=self.device) for _ in range(8 * self.large**2)]
        one_token = (
            self._random(4, 1, h, p),
            self._random(4, 1, h, dtype=torch.float32),
            a,
            self._random(4, 1, 1, n),
            self._random(4, 1, 1, n),
            a,
        )

        def step_all() -> None:
            for state in states:
                ssd_step(*one_token, state)

        moved_bytes = 2 * sum(state.nbytes for state in states)
        return flops_per_s, moved_bytes / _best_s(step_all, self.device)

    def elementwise(self) -> float:
        """Bytes/s, read and written, of elementwise operations on tensors beyond the caches' size.

        silu(gate) * up reads gate and writes the SiLU, then reads both factors and writes the
        product: five tensors.
        """
        gate = self._random(2048 * self.large, 8192)
        up = self._random(2048 * self.large, 8192)
        return 5 * gate.nbytes / _best_s(lambda: F.silu(gate) * up, self.device)

    def calls(self) -> dict[str, float]:
        """Seconds per layer of one decode step, for each kind of layer.

        The layers are so small that only the calls of their operations take time.
        """
        return {name: self._step_s(spec) / spec.n_layers for name, spec in tiny_designs().items()}

    def _step_s(self, spec: ArchSpec) -> float:
        model = build(spec, self.device, self.dtype)
        cache = filled_cache(model, 1, 8, "bf16", "fp32")
        step = step_work(decoder(model, cache), cache, 8)
        return min(decode_steps(step, self.device, 0.5).seconds)

    def run(self, report: Callable[[str], None] = lambda message: None) -> Hardware:
        """Measure all rates and return them as a `Hardware`, the form that forecasts read."""
        report("dense peak and memory reads")
        ceilings = self.peak_and_bandwidth()
        report("matrix products by rows")
        linear = self.linear()
        report("attention, scans, elementwise work")
        whole, window = self.attention()
        scan, state = self.scan()
        kv = self.kv()
        elementwise = self.elementwise()
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
    """Measured ceilings in the form that the roofline takes.

    Only one dtype was measured; the peaks of the other dtypes repeat it.
    """
    found = describe(device)
    dtype = ceilings["dtype"]
    peak = ceilings["flops_per_s"]
    source = Source(
        fields=("peak_flops_per_s", "bandwidth_bytes_per_s"),
        text=f"measured in {dtype} on this machine",
        url="",
    )
    return Hardware(
        key=calibration_key(str(device), dtype),
        name=f"This machine: {found['name']} ({dtype}, measured)",
        kind="gpu" if device.type == "cuda" else "cpu",
        memory_bytes=found["memory_bytes"],
        bandwidth_bytes_per_s=ceilings["bytes_per_s"],
        peak_flops_per_s=PeakFlops(fp32=peak, bf16=peak, fp16=peak, fp8=None),
        tdp_w=1.0,
        sources=(source,),
    )
