"""Predictions from measured rates, against sums worked by hand; and the calibration that measures
them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hybrid_core.cli.main import main
from hybrid_core.live.profiling import calibrate, throughput
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import Hardware, PeakFlops, Rates
from hybrid_core.speed.roofline import predict
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.designs import design

NEVER = 1e30  # a rate so high that its work takes no time
FREE = {
    "dtype": "bf16",
    "linear": ((1, 1e-40),),
    "attention_flops_per_s": NEVER,
    "window_flops_per_s": NEVER,
    "scan_flops_per_s": NEVER,
    "kv_bytes_per_s": NEVER,
    "state_bytes_per_s": NEVER,
    "elementwise_bytes_per_s": NEVER,
    "call_s": {"attention": 0.0},
}
WORK = Workload(batch_size=2, context_len=64, state_dtype="fp32")
# d_model 32: q, k, v of 4 + 2 + 2 heads of 8; output 32 x 32; FFN 3 x 32 x 40; head 50 x 32
ATTENTION_WEIGHTS = 32 * 64 + 32 * 32 + 3 * 32 * 40


def toy(**rates: object) -> Hardware:
    peaks = PeakFlops(fp32=NEVER, bf16=NEVER, fp16=NEVER, fp8=None)
    return Hardware(
        key="toy",
        name="toy",
        kind="cpu",
        memory_bytes=1,
        bandwidth_bytes_per_s=NEVER,
        peak_flops_per_s=peaks,
        tdp_w=1.0,
        sources=(),
        rates=Rates(**(FREE | rates)),
    )


def test_weights_take_their_time_at_the_rows_that_share_them() -> None:
    device = toy(linear=((1, 1e-9), (2, 1e-9), (128, 4e-9)))
    speed = predict(design("AA"), WORK, device)
    head = 50 * 32
    assert speed.decode_step_s == pytest.approx((2 * ATTENTION_WEIGHTS + head) * 1e-9)
    assert speed.prefill_s == pytest.approx(
        2 * ATTENTION_WEIGHTS * 4e-9 + head * 1e-9
    )  # 2 x 64 rows; logits of the last row only


def test_rows_beyond_the_last_measured_point_take_time_in_proportion() -> None:
    rates = toy(linear=((1, 1e-9), (100, 5e-9))).rates
    assert rates and rates.weight_s(1000) == pytest.approx(50e-9)
    assert rates.weight_s(10) == pytest.approx((1e-9 * 5e-9) ** 0.5)  # half way in logarithms


def test_cache_state_calls_and_mixing_are_added() -> None:
    kv = predict(design("A"), WORK, toy(kv_bytes_per_s=1e6)).decode_step_s
    assert kv == pytest.approx(
        2 * 64 * 2 * 2 * 8 * 2 / 1e6
    )  # batch, tokens, k and v, heads, width, bytes
    state = predict(design("M"), WORK, toy(state_bytes_per_s=1e6)).decode_step_s
    assert state == pytest.approx(
        2 * 2 * (64 * 8 * 4 + 3 * (64 + 16) * 2) / 1e6
    )  # read and written: float32 state, bf16 conv inputs
    calls = predict(design("AM"), WORK, toy(call_s={"attention": 1.0, "mamba2": 2.0})).decode_step_s
    assert calls == pytest.approx(3.0)
    attention = predict(design("A"), WORK, toy(attention_flops_per_s=1e6)).prefill_s
    assert attention == pytest.approx(
        2 * (64 * 65 / 2) * 4 * 4 * 8 / 1e6
    )  # batch, pairs, 2 x 2 FLOPs, heads, width


def test_differential_attention_is_predicted_on_a_calibrated_device() -> None:
    # 4 maps of width 8 over values of two heads' width, 16: 4 x (2 x 8 + 2 x 16) FLOPs a pair; 2
    # sequences, 64 x 65 / 2 pairs.
    pairs, pair = 2 * 2080, 192
    speed = predict(design("D"), WORK, toy(attention_flops_per_s=1e6, window_flops_per_s=1.0))
    assert speed.prefill_s == pytest.approx(pairs * pair / 1e6)
    # Keys and values of 64 tokens, as plain attention keeps them: 2 heads x (8 + 8) x 2 bytes.
    kv = predict(design("D"), WORK, toy(kv_bytes_per_s=1e6)).decode_step_s
    assert kv == pytest.approx(2 * 64 * 2 * 16 * 2 / 1e6)


def test_only_a_window_shorter_than_the_prompt_goes_at_the_windows_rate() -> None:
    # Window 4, sinks 2: 1 + 2 + ... + 6, then 58 times 6 pairs, 4 x 4 x 8 FLOPs each.
    speed = predict(design("S"), WORK, toy(attention_flops_per_s=1.0, window_flops_per_s=1e6))
    assert speed.prefill_s == pytest.approx(2 * (21 + 58 * 6) * 128 / 1e6)
    wide = predict(
        design("S", swa={"window": 64}),
        WORK,
        toy(attention_flops_per_s=1e6, window_flops_per_s=1.0),
    )
    assert wide.prefill_s == pytest.approx(2 * 2080 * 128 / 1e6)


def test_a_kind_newer_than_the_calibration_is_taken_as_the_slowest() -> None:
    assert predict(
        design("M"), WORK, toy(call_s={"attention": 1.0, "swa": 4.0})
    ).decode_step_s == pytest.approx(4.0)


def test_a_calibration_answers_only_for_its_dtype() -> None:
    with pytest.raises(SpecError, match="calibrated in bf16"):
        toy().peak("fp32")


def test_on_cuda_what_is_timed_is_the_graph_of_the_work_on_that_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Called from Python, small kernels would take as long as the calls, which a step's own cost
    already holds."""
    order: list[str] = []

    def captured(
        work: Callable[[], None], warm_up: Callable[[], None], device: torch.device
    ) -> Callable[[], None]:
        warm_up()
        order.append(f"captured on {device}")
        return lambda: order.append("replayed")

    monkeypatch.setattr(calibrate, "captured", captured)
    monkeypatch.setattr(
        throughput, "synchronise", lambda device: order.append(f"waited for {device}")
    )
    calibrate._best_s(lambda: order.append("called"), torch.device("cuda", 1), 0.0)
    assert order == ["called", "captured on cuda:1", *["replayed", "waited for cuda:1"] * 4]


@pytest.mark.slow
def test_calibrate_keeps_a_device_that_costs_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    assert main(["calibrate", "--device", "cpu", "--dtype", "fp32", "--json"]) == 0
    capsys.readouterr()
    assert list(hardware.calibrated()) == ["this_cpu_fp32"]
    assert (
        main(
            [
                "cost",
                "llama-100m",
                "--hardware",
                "this_cpu_fp32",
                "--weight-dtype",
                "fp32",
                "--json",
            ]
        )
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert (
        record["predicted"]["decode_tokens_per_s"] > 0
        and "calibrated rates" in record["predicted"]["basis"]
    )
    assert (
        main(["cost", "llama-100m", "--hardware", "this_cpu_fp32", "--weight-dtype", "bf16"]) == 2
    )
