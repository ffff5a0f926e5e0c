"""Measured rates of the device at hand.

The rates are the dense peak, memory reads, and one for each kind of work in a model. Each is
measured through the operation that the modules use, on shapes like those of a 350M model. A
calibration takes about half a minute.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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

# The product for the peak grows until it reaches this time or this size.
PRODUCT_S = 0.05
LARGEST_PRODUCT = 2048  # rows; multiplied by `Calibration.large` on a GPU

# The scan's shapes. All heads are in one group, which shares B and C.
SCAN_HEADS = 16
SCAN_WIDTH = 128
SCAN_STATES = 128
SCAN_CHUNK = 128


def _best_s(
    work: Callable[[], object],
    device: torch.device,
    budget_s: float = 0.6,
) -> float:
    """Seconds of the fastest of a few repeats, since other work on the machine only adds time.

    On CUDA the work is replayed from a graph, as in decode. Otherwise most of the time would go to
    launching small kernels from Python.
    """
    if device.type == "cuda":
        work = captured(work, work, device)
    timing = repeat(work, device, budget_s, most=7, least=3)
    return min(timing.seconds)


class DeviceCeilings(NamedTuple):
    """The device's peak rates in one dtype.

    `matrix`: rows of the square matrices that were multiplied. `fp32_times`: how many times as fast
    the same product is in float32. On a CPU without bf16 products, this is about a hundred.
    """

    flops_per_s: float
    bytes_per_s: float
    dtype: str
    matrix: int
    fp32_times: float


class ScanInputs(NamedTuple):
    """The arguments of `ssd` and, for one token, of `ssd_step`."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor


class Calibration:
    """Measures one device in one dtype."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self.device = device
        self.name = dtype
        self.dtype = TORCH_DTYPES[dtype]
        self.large = 4 if device.type == "cuda" else 1  # GPUs need more work to stay busy

    def _random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        drawn = torch.rand(*shape, device=self.device)
        return drawn.to(dtype or self.dtype)

    def peak_and_bandwidth(self) -> DeviceCeilings:
        """FLOP/s of a square matrix product, and bytes/s of reading a float32 matrix once."""
        size = self._product_size()
        product_s = self._product_s(size, self.dtype, 1.5)
        fp32_s = product_s
        if self.dtype != torch.float32:
            fp32_s = self._product_s(size, torch.float32, 0.3)
        product_flops = 2 * size**3
        return DeviceCeilings(
            flops_per_s=product_flops / product_s,
            bytes_per_s=self._read_bytes_per_s(),
            dtype=self.name,
            matrix=size,
            fp32_times=product_s / fp32_s,
        )

    def _product_size(self) -> int:
        """Rows of the largest square product within the limits on time and size."""
        size = 256
        largest = LARGEST_PRODUCT * self.large
        while size < largest:
            if self._product_s(size, self.dtype, 0.0) >= PRODUCT_S:
                break
            size *= 2
        return size

    def _read_bytes_per_s(self) -> float:
        """The rate of a matrix-vector product, which reads the matrix once."""
        wide = torch.ones(2**13, 2**13 * self.large, device=self.device)
        vector = torch.ones(wide.shape[1], device=self.device)

        def read() -> torch.Tensor:
            return wide @ vector

        return wide.nbytes / _best_s(read, self.device)

    def _product_s(
        self,
        size: int,
        dtype: torch.dtype,
        budget_s: float,
    ) -> float:
        """Seconds of one product of two square matrices."""
        a = self._random(size, size, dtype=dtype)
        b = self._random(size, size, dtype=dtype)

        def product() -> torch.Tensor:
            # The modules use F.linear, too. On a CPU, a @ b can be slower.
            return F.linear(a, b)

        return _best_s(product, self.device, budget_s)

    def linear(self) -> tuple[tuple[int, float], ...]:
        """For several numbers of rows, the seconds per weight of a linear layer.

        Several matrices take turns, so that they do not all fit into a cache.
        """
        d_in = 2048
        d_out = 8192
        n = 4 * self.large
        weights = [self._random(d_out, d_in) for _ in range(n)]
        points = []
        for rows in ROWS:
            x = self._random(rows, d_in)
            seconds = _best_s(partial(_all_products, x, weights), self.device)
            points.append((rows, seconds / (n * d_in * d_out)))
        return tuple(points)

    def attention(self) -> tuple[float, float]:
        """FLOP/s of causal prefill, without a window and with one.

        It counts only unmasked pairs of a query and a key.
        """
        t = 1024 * self.large
        n_heads = 16
        head_dim = 64
        window = 512
        q = self._random(1, t, n_heads, head_dim)
        k = self._random(1, t, n_heads // 4, head_dim)
        # One multiply-add per channel for the score, and one for the weighted value.
        pair_flops = 4 * n_heads * head_dim
        whole = partial(attention, q, k, k)
        windowed = partial(attention, q, k, k, window=window)
        whole_s = _best_s(whole, self.device)
        window_s = _best_s(windowed, self.device)
        whole_pairs = t * (t + 1) // 2
        # The first tokens see less than a full window.
        window_pairs = t * window - window * (window - 1) // 2
        return (
            pair_flops * whole_pairs / whole_s,
            pair_flops * window_pairs / window_s,
        )

    def kv(self) -> float:
        """Bytes/s at which one query per sequence reads its keys and values.

        Several KV caches take turns, so that they do not all fit into faster memory.
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

    def scan(self) -> float:
        """FLOP/s of Mamba-2's chunked scan."""
        t = 1024 * self.large
        tokens = self._scan_inputs(1, t)
        run = partial(ssd, *tokens, chunk_size=SCAN_CHUNK)
        n_chunks = t // SCAN_CHUNK
        return n_chunks * _chunk_flops() / _best_s(run, self.device)

    def state(self) -> float:
        """Bytes/s of the state in single steps of the scan, reads plus writes."""
        batch_size = 4
        states = []
        for _ in range(8 * self.large**2):
            state = torch.zeros(
                batch_size,
                SCAN_HEADS,
                SCAN_WIDTH,
                SCAN_STATES,
                device=self.device,
            )
            states.append(state)
        one_token = self._scan_inputs(batch_size, 1)

        def step_all() -> None:
            for state in states:
                ssd_step(*one_token, state)

        moved_bytes = 2 * sum(state.nbytes for state in states)
        return moved_bytes / _best_s(step_all, self.device)

    def _scan_inputs(self, batch_size: int, t: int) -> ScanInputs:
        """Random inputs for t tokens of each sequence."""
        per_head = -self._random(SCAN_HEADS)
        return ScanInputs(
            self._random(batch_size, t, SCAN_HEADS, SCAN_WIDTH),
            self._random(batch_size, t, SCAN_HEADS, dtype=torch.float32),
            per_head,
            self._random(batch_size, t, 1, SCAN_STATES),
            self._random(batch_size, t, 1, SCAN_STATES),
            per_head,
        )

    def elementwise(self) -> float:
        """Bytes/s, reads plus writes, of elementwise operations on tensors larger than the caches.

        silu(gate) * up reads gate and writes the SiLU, then reads both factors and writes the
        product: five tensors.
        """
        gate = self._random(2048 * self.large, 8192)
        up = self._random(2048 * self.large, 8192)

        def product() -> torch.Tensor:
            return F.silu(gate) * up

        return 5 * gate.nbytes / _best_s(product, self.device)

    def calls(self) -> dict[str, float]:
        """Seconds per layer of one decode step, for each kind of layer.

        The layers are so small that launching their operations takes all the time.
        """
        seconds = {}
        for kind, spec in _tiny_designs().items():
            seconds[kind] = self._step_s(spec) / spec.n_layers
        return seconds

    def _step_s(self, spec: ArchSpec) -> float:
        model = build(spec, self.device, self.dtype)
        cache = filled_cache(model, 1, 8, "bf16", "fp32")
        step = step_work(decoder(model, cache), cache, 8)
        return min(decode_steps(step, self.device, 0.5).seconds)

    def run(self, report: Callable[[str], None] = lambda message: None) -> Hardware:
        """Measure all rates and return them as a `Hardware` record, which forecasts read."""
        report("dense peak and memory reads")
        ceilings = self.peak_and_bandwidth()
        rates = self._rates(report)
        free_memory(self.device)
        hardware = as_hardware(self.device, ceilings)
        return hardware.model_copy(update={"rates": rates})

    def _rates(self, report: Callable[[str], None]) -> Rates:
        """The rates of every kind of work."""
        report("matrix products by rows")
        linear = self.linear()
        report("attention, scans, elementwise work")
        whole, window = self.attention()
        scan = self.scan()
        state = self.state()
        kv = self.kv()
        elementwise = self.elementwise()
        report("calls")
        calls = self.calls()
        return Rates(
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


def _all_products(x: torch.Tensor, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """One linear layer after another, all on the same rows.

    The outputs are kept, so that each is written to memory of its own and not to a cache line that
    the last one left.
    """
    return [F.linear(x, weight) for weight in weights]


def _chunk_flops() -> int:
    """FLOPs of one chunk of `Calibration.scan` (arXiv 2405.21060, Section 6)."""
    in_chunk = 2 * SCAN_CHUNK**2 * SCAN_WIDTH
    inputs_and_outputs = 4 * SCAN_CHUNK * SCAN_STATES * SCAN_WIDTH  # of the chunk's state
    decay = 2 * SCAN_STATES * SCAN_WIDTH
    scores = 2 * SCAN_CHUNK**2 * SCAN_STATES  # once, because all heads share B and C
    return scores + SCAN_HEADS * (in_chunk + inputs_and_outputs + decay)


TINY_SECTIONS: dict[str, dict[str, Any]] = {
    "attention": {"n_heads": 2, "n_kv_heads": 2, "head_dim": 8},
    "ssm": {"d_ssm": 32, "head_dim": 8, "d_state": 8},
    "intra": {
        "n_heads": 2,
        "n_kv_heads": 1,
        "qk_head_dim": 8,
        "v_head_dim": 8,
        "d_ssm": 16,
    },
    "diff": {},
    "ffn": {"kind": "swiglu", "d_ff": 16},
}


def _tiny_designs() -> dict[str, ArchSpec]:
    """A design of eight layers for each kind of mixer.

    The layers are so narrow that a step spends all its time launching operations.
    """
    n_layers = 8
    first = presets.get(presets.FIRST).spec
    base = first.replace(
        vocab_size=16,
        d_model=16,
        n_layers=n_layers,
        **TINY_SECTIONS,
    )
    letters = [letter for letter, kind in WRITTEN.items() if kind.entry.sections]
    others = composable(base.d_model)
    kinds = {}
    for letter in (*letters, *others):
        mixers = {}
        if letter in others:
            mixers[letter] = others[letter]
        layers = {"pattern": n_layers * letter}
        spec = base.replace(layers=layers, mixers=mixers)
        mixer = spec.stack[0].mixer
        kinds[mixer.kind] = spec
    return kinds


def as_hardware(device: torch.device, ceilings: DeviceCeilings) -> Hardware:
    """Measured ceilings as a `Hardware` record for the roofline.

    Only one dtype was measured; the other dtypes get the same peak.
    """
    found = describe(device)
    dtype = ceilings.dtype
    peak = ceilings.flops_per_s
    source = Source(
        fields=("peak_flops_per_s", "bandwidth_bytes_per_s"),
        text=f"measured in {dtype} on this machine",
        url="",
    )
    peaks = PeakFlops(
        fp32=peak,
        bf16=peak,
        fp16=peak,
        fp8=None,
    )
    return Hardware(
        key=calibration_key(str(device), dtype),
        name=f"This machine: {found['name']} ({dtype}, measured)",
        kind="gpu" if device.type == "cuda" else "cpu",
        memory_bytes=found["memory_bytes"],
        bandwidth_bytes_per_s=ceilings.bytes_per_s,
        peak_flops_per_s=peaks,
        tdp_w=1.0,
        sources=(source,),
    )
