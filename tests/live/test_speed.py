"""What a profile makes of its timings, on devices and with clocks that are given."""

import pytest
import torch
from torch import Tensor

from hybrid_core.live.modules.model import build
from hybrid_core.live.profiling.calibrate import DeviceCeilings, as_hardware
from hybrid_core.live.profiling.generation import generation, generation_part
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.throughput import decode_steps, filled_cache, step_work
from hybrid_core.results.profile import NotGenerated
from hybrid_core.speed.hardware import catalogue
from tests.designs import design

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("prompt_len", "total_len", "latency_s"),
    [
        (100, 300, 40.0),  # 200 tokens at 0.2 s on average
        (100, 200, 15.0),  # 100 tokens from 0.1 to 0.2 s
        (50, 400, 75.0),  # 50 more at 0.1 s before, 100 more at 0.3 s after
    ],
)
def test_latency_is_the_integral_of_the_timed_steps(
    prompt_len: int, total_len: int, latency_s: float
) -> None:
    points = [(300, 0.3), (100, 0.1)]
    found = generation(points, prompt_len, total_len, batch=2)
    assert found.latency_s == pytest.approx(latency_s)
    assert found.tokens_per_s == pytest.approx(2 * (total_len - prompt_len) / latency_s)


def test_the_generation_part_has_a_row_for_each_total_that_was_reached() -> None:
    options = ProfileOptions(
        device="cpu",
        dtype="fp32",
        kv_cache_dtype="fp32",
        batch_size=2,
        prompt_len=100,
        totals=(100, 300, 500),
    )
    refused = NotGenerated(total_len=500, why="too large")
    part = generation_part(
        design("A"),
        options,
        [(100, 0.5), (300, 0.5)],
        catalogue()["h100_sxm"],
        "eager",
        [refused],
    ).record()
    (row,) = part["rows"]
    assert (row["total_len"], row["tokens_per_s"], row["latency_s"]) == (300, 4.0, 100.0)
    assert "paper_tokens_per_s" not in row and part["paper_source"] is None
    assert part["not_measured"] == [{"total_len": 500, "why": "too large"}]
    assert part["protocol"] == (
        "batch 2, prompt 100; steps (eager) timed at 2 contexts and integrated"
    )


def test_a_step_makes_the_same_position_again_from_the_likeliest_token() -> None:
    cache = filled_cache(build(design("A")), 3, 16, "fp32", "fp32")
    assert all(float(tensor.min()) == pytest.approx(0.01) for tensor in cache.tensors())
    seen = []

    def step_from(token: Tensor) -> Tensor:
        seen.append((cache.length, token.flatten().tolist()))
        return torch.nn.functional.one_hot(token + 1, 8)

    step = step_work(step_from, cache, 9)
    step()
    step()
    assert seen == [(8, [0, 0, 0]), (8, [1, 1, 1])]


def test_two_steps_are_timed_even_without_time() -> None:
    calls = []
    timing = decode_steps(lambda: calls.append(1), CPU, 0.0)
    assert len(timing.seconds) == 2 and len(calls) == 3  # the first is not timed


def test_measured_ceilings_are_the_peak_of_every_dtype_that_could_be_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "hybrid_core.live.profiling.calibrate.describe",
        lambda device: {"name": "a chip", "memory_bytes": 2**30},
    )
    ceilings = DeviceCeilings(3e12, 2e11, "bf16", 2048, 1.0)
    found = as_hardware(torch.device("cuda", 0), ceilings)
    assert (found.kind, found.memory_bytes) == ("gpu", 2**30)
    assert found.peak("bf16") == found.peak("fp32") == 3e12
    assert found.bandwidth_bytes_per_s == 2e11
    assert "a chip (bf16, measured)" in found.name
