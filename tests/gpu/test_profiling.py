"""What is measured on the device: calibration, energy, a whole profile, and what happens when
memory ends."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_core.design import presets
from hybrid_core.live.profiling.calibrate import Calibration
from hybrid_core.live.profiling.device import free_memory
from hybrid_core.live.profiling.energy import EnergyLog
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.profile import profile
from hybrid_core.runs.devices import devices
from hybrid_core.runs.jobs import Dispatcher, submit
from hybrid_core.runs.store import Run, open_store
from hybrid_core.runs.worker import reason
from hybrid_core.speed import hardware
from tests.designs import design

pytestmark = pytest.mark.gpu

DATASHEETS = {"H100": "h100_sxm", "H200": "h200_sxm", "A100": "a100_80gb_sxm"}
SMALL = {"budget_s": 8, "dtype": "fp32", "batch_size": 1, "prompt_len": 16, "totals": (64, 128)}


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder of the test's own: no calibration of this machine, no run of another test."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)


@pytest.mark.timeout(200)
def test_a_calibration_is_kept_and_read_back_and_beats_no_datasheet(device: torch.device) -> None:
    """A rate over the datasheet's means that the clock did not wait for the device."""
    measured = Calibration(device, "bf16" if device.type == "cuda" else "fp32").run()
    hardware.keep_calibration(measured)
    assert hardware.calibrated() == {measured.key: measured}
    if device.type != "cuda":
        return
    name = torch.cuda.get_device_name(device)
    datasheet = next(
        (hardware.catalogue()[key] for word, key in DATASHEETS.items() if word in name), None
    )
    if datasheet is None:
        pytest.skip(f"no datasheet of {name}")
    assert measured.rates
    rates = measured.rates
    for flops_per_s in (
        measured.peak("bf16"),
        rates.attention_flops_per_s,
        rates.window_flops_per_s,
        rates.scan_flops_per_s,
    ):
        assert 0 < flops_per_s < datasheet.peak("bf16")
    assert 0 < measured.bandwidth_bytes_per_s < datasheet.bandwidth_bytes_per_s
    rows, seconds = zip(*rates.linear, strict=True)
    for n, per_weight_s in zip(rows, seconds, strict=True):
        assert 2 * n / per_weight_s < datasheet.peak("bf16")
        assert (
            2 / per_weight_s < datasheet.bandwidth_bytes_per_s
        )  # two bytes of each weight are read


@pytest.mark.timeout(120)
def test_joules_are_those_of_a_board_at_work(device: torch.device) -> None:
    log = EnergyLog.of(device)
    if device.type != "cuda":
        assert log.meter is None and log.why
        return
    import pynvml

    assert log.meter, log.why
    limit_w = pynvml.nvmlDeviceGetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1000
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    log.idle(5.0)
    log.measure("decode", lambda: [a @ a for _ in range(50)], 1, 10.0, batch_size=1, context_len=1)
    found = log.part().record()
    idle_w, row = found["idle"]["watts"], found["rows"][0]
    busy_w = row["joules"] / row["seconds"]
    assert row["joules_per_token"] == pytest.approx(row["joules"] / row["tokens"])
    assert (
        10 < idle_w <= 1.1 * limit_w
    )  # other tests may be at work meanwhile, so idle need not be less than busy
    assert 10 < busy_w <= 1.1 * limit_w


@pytest.mark.timeout(200)
def test_a_profile_measures_every_part_on_a_captured_graph_in_triton(device: torch.device) -> None:
    parts: dict[str, Any] = {}
    on_gpu = device.type == "cuda"
    spec = presets.get("inter-1to5-350m").spec if on_gpu else design("MAH")
    asked = {"budget_s": 40} if on_gpu else SMALL
    profile(
        spec, ProfileOptions.make(device=str(device), **asked), parts.__setitem__, lambda *_: None
    )
    environment, decode = parts["environment"], parts["decode"]
    assert environment["decode"] == decode["path"] == ("graph" if on_gpu else "eager")
    assert set(environment["kernels_ran"].values()) == {"triton" if on_gpu else "eager"}, (
        environment["kernels_ran"]
    )
    assert all(row["median_s"] > 0 for row in decode["rows"])
    assert [row["total_len"] for row in parts["generation"]["rows"]] == list(
        (2048, 4096, 8192, 16384, 32768) if on_gpu else (64, 128)
    )
    assert all(row["live_bytes"] == row["exact_bytes"] for row in parts["cache"]["rows"])
    memory = parts["memory"]
    assert memory["peak_bytes"] >= memory["predicted_bytes"]["weights"]
    if on_gpu:
        assert parts["energy"]["meter"], parts["energy"]
        assert any(row["joules_per_token"] for row in parts["energy"]["rows"]), parts["energy"]


def test_every_device_that_torch_sees_is_offered_under_its_name(device: torch.device) -> None:
    offered = [found for found in devices() if found.key != "cpu"]
    seen = [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    assert [(found.key, found.name) for found in offered] == seen


@pytest.fixture
def little_memory(device: torch.device) -> Any:
    """torch may take a hundredth of the device, which the fit check, asking the driver, does not
    know."""
    if device.type != "cuda":
        pytest.skip("a CPU has no such limit")
    free_memory(device)
    torch.cuda.set_per_process_memory_fraction(0.01, device)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    free_memory(device)


def test_a_profile_that_runs_out_of_memory_says_so_in_one_line_and_the_process_works_on(
    device: torch.device, little_memory: None
) -> None:
    options = ProfileOptions.make(device=str(device), budget_s=5)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        profile(presets.get("llama-1b").spec, options, lambda *_: None, lambda *_: None)
    said = reason(caught.value)
    assert said.startswith("out of memory: ") and len(said.splitlines()) == 1
    del caught
    free_memory(device)
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    parts: dict[str, Any] = {}
    profile(
        design("MAH"),
        ProfileOptions.make(device=str(device), **SMALL),
        parts.__setitem__,
        lambda *_: None,
    )
    assert parts["decode"]["rows"]


# What a job finds when it starts: torch that may take little memory. On a CPU the address space is
# what is limited.
LITTLE = """
import resource, torch
if torch.cuda.is_available():
    torch.cuda.set_per_process_memory_fraction(0.01)
else:
    import psutil
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
"""


def waited_for(run_id: int) -> Run:
    """A run once it has ended."""
    store = open_store()
    dispatcher = Dispatcher(store)
    while True:
        dispatcher.look()
        run = store.get(run_id)
        if not run.active:
            return run
        time.sleep(0.2)


@pytest.mark.timeout(120)
def test_a_job_that_runs_out_of_memory_fails_with_one_line_and_the_next_one_runs(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LITTLE)
    large = ProfileOptions.make(device=str(device), budget_s=20)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(site), *sys.path])
        failed = waited_for(submit(presets.get("llama-1b").spec, large))
    assert failed.status == "failed", failed
    assert (
        failed.error
        and failed.error.startswith("out of memory: ")
        and len(failed.error.splitlines()) == 1
    )
    done = waited_for(submit(design("MAH"), ProfileOptions.make(device=str(device), **SMALL)))
    assert done.status == "done", done.error
