"""Which devices there are: torch's own answer, asked for in a process that is not the page's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from hybrid_core.cli.main import main
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.options import ProfileOptions, device_among
from hybrid_core.live.retrieval.checkpoint import CheckpointRun, checkpoint
from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.runs import devices
from hybrid_core.validation import SpecError
from tests.designs import design

ROOT = Path(__file__).resolve().parents[2]
GPUS = [["NVIDIA H100 80GB HBM3", 84_000_000_000], ["NVIDIA L4", 24_000_000_000]]


@pytest.fixture(autouse=True)
def nothing_asked_yet() -> Iterator[None]:
    devices._asked.cache_clear()
    yield
    devices._asked.cache_clear()


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch whose build knows GPUs, as far as its version says."""
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cu130")


def answered(monkeypatch: pytest.MonkeyPatch, stdout: str) -> list[dict[str, Any]]:
    """The process that is asked prints this; how it was started."""
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **how: Any) -> SimpleNamespace:
        asked.append(how | {"command": command})
        return SimpleNamespace(stdout=stdout)

    monkeypatch.setattr(devices.subprocess, "run", run)
    return asked


def test_the_list_is_torchs_in_its_order_and_asked_for_once(
    gpu_build: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    printed = json.dumps([GPUS, None])
    asked = answered(monkeypatch, f"a warning of some library\n{printed}\n")
    devices.devices()
    first, second, cpu = devices.devices()
    assert tuple(first) == ("cuda:0", *GPUS[0])
    assert tuple(second) == ("cuda:1", *GPUS[1])
    assert cpu.key == "cpu" and devices.why_no_gpu() is None
    [how] = asked
    assert how["env"]["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert how["command"][0] == sys.executable
    assert [devices.concrete(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(
        SpecError,
        match=r"^device: 'cuda:2' - must be among those that torch finds here: "
        r"cuda:0, cuda:1, cpu$",
    ):
        devices.concrete("cuda:2")


def test_a_cpu_build_of_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cpu")
    asked = answered(monkeypatch, "")
    [only] = devices.devices()
    assert only.key == "cpu"
    assert devices.why_no_gpu() is None and not asked


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="a build with CUDA says something else")
@pytest.mark.usefixtures("gpu_build")
def test_torchs_reason_for_finding_no_gpu_reaches_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real process asks the real torch, which knows no GPUs whatever its version was made to
    say."""
    why = "Torch not compiled with CUDA enabled"
    [only] = devices.devices()
    assert only.key == "cpu" and devices.why_no_gpu() == why
    assert main(["calibrate", "--device", "cuda:1"]) == 2
    assert (
        capsys.readouterr().err
        == "device: 'cuda:1' - must be among those that torch finds here: cpu\n"
    )


@pytest.mark.usefixtures("gpu_build")
def test_auto_on_the_command_line_says_why_it_is_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    answered(monkeypatch, json.dumps([[], "No CUDA GPUs are available"]))
    monkeypatch.setattr(
        "hybrid_core.cli.measurements.submit",
        lambda spec, options, store: pytest.fail(f"on {options.device}"),
    )
    with pytest.raises(pytest.fail.Exception, match="on cpu"):
        main(["profile", "mamba-100m"])
    assert (
        capsys.readouterr().err
        == "device: auto means the CPU, because there is no GPU: No CUDA GPUs are available\n"
    )


def test_the_page_offers_what_torch_finds_and_says_why_there_is_no_gpu(
    gpu_build: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "pages" / "profile.py"), default_timeout=60)
    for found, offered, captions in (
        ([GPUS, None], ["NVIDIA H100 80GB HBM3 (78.2 GiB)", "NVIDIA L4 (22.4 GiB)", "CPU"], 0),
        ([[], "No CUDA GPUs are available"], ["CPU"], 1),
    ):
        devices._asked.cache_clear()
        answered(monkeypatch, json.dumps(found))
        page.run()
        assert not page.exception
        [box] = [box for box in page.selectbox if box.label == "Device"]
        *gpus, cpu = box.options  # the CPU is shown with this machine's memory
        assert [*gpus, cpu.partition(" (")[0]] == offered
        reasons = [text.value for text in page.caption if "No CUDA GPUs" in text.value]
        assert len(reasons) == captions
        assert all("No CUDA GPUs are available" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (subprocess.TimeoutExpired("python", 120), "torch did not list its GPUs within 120 s"),
        (
            subprocess.CalledProcessError(
                1, "python", stderr="Traceback\nImportError: libcudart.so.13\n"
            ),
            "ImportError: libcudart.so.13",
        ),
        (subprocess.CalledProcessError(-11, "python", stderr=""), "exit code -11"),
    ],
)
def test_a_torch_that_cannot_be_asked_leaves_the_cpu_and_the_reason(
    error: Exception, why: str, gpu_build: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **how: Any) -> None:
        raise error

    monkeypatch.setattr(devices.subprocess, "run", fail)
    [only] = devices.devices()
    assert only.key == "cpu" and why in str(devices.why_no_gpu())


def test_the_worker_goes_by_torchs_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPUS))

    def properties(index: int) -> SimpleNamespace:
        name, memory_bytes = GPUS[index]
        return SimpleNamespace(name=name, total_memory=memory_bytes)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert device.gpus() == ([tuple(gpu) for gpu in GPUS], None)
    assert [str(device.resolve(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(SpecError, match=r"^device: 'cuda:2' - .*: cuda:0, cuda:1, cpu$"):
        device.resolve("cuda:2")


@pytest.mark.parametrize("name", ["cuda:01", "cuda:300", "cuda:99999999999999999999"])
def test_a_number_that_torch_cannot_read_is_no_device(name: str) -> None:
    """torch.device takes no leading zero and no number beyond 127."""
    with pytest.raises(SpecError, match=f"^device: '{name}' - "):
        device_among(["cuda:0", "cpu"], ProfileOptions.make(device=name).device)


def test_a_checkpoint_is_run_with_its_device_as_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' models may launch kernels that go to the current device, wherever their tensors
    are."""
    current = [0]

    @contextmanager
    def exchanged(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    ran = []
    monkeypatch.setattr(torch.cuda, "device", exchanged)
    monkeypatch.setattr(device, "resolve", torch.device)
    monkeypatch.setattr(
        CheckpointRun, "run", lambda self: ran.append((str(self.device), current[0]))
    )
    for name in ("cuda:1", "cpu"):
        checkpoint(
            design("A"),
            CheckpointOptions(path=str(tmp_path), device=name),
            lambda name, data: None,
            lambda fraction, message: None,
        )
    assert ran == [("cuda:1", 1), ("cpu", 0)] and current == [0]
