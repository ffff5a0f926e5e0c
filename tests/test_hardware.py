"""Accelerators: memory as drivers report it, and calibrations that somebody edited or cut."""

import re
from pathlib import Path

import pytest

from hybrid_core import hardware
from hybrid_core.cli import main
from hybrid_core.hardware import catalogue
from hybrid_core.spec import SpecError

# What nvidia-smi prints, in MiB.
REPORTED = {
    "l4": 23_034,
    "a10": 23_028,
    "a40": 46_068,
    "l40s": 46_068,
    "a100_40gb_sxm": 40_960,
    "a100_80gb_sxm": 81_920,
    "h100_sxm": 81_559,
    "h200_sxm": 143_771,
    "b200_sxm": 183_359,
    "rtx_4090": 24_564,
}


@pytest.mark.parametrize("key", REPORTED)
def test_memory_is_what_the_driver_reports(key: str) -> None:
    device = catalogue()[key]
    assert device.memory_bytes == REPORTED[key] * 2**20
    (source,) = (source for source in device.sources if "memory_bytes" in source.fields)
    assert f"{REPORTED[key]:,} MiB" in source.text
    assert source.url.startswith("https://")


def test_no_gpu_has_more_than_its_vendor_says_in_powers_of_two() -> None:
    for device in catalogue().values():
        if device.kind == "gpu":
            vendor_gb = int(re.findall(r"(\d+) ?GB", device.name)[-1])
            assert device.memory_bytes <= vendor_gb * 2**30
            assert device.memory_bytes >= 0.93 * vendor_gb * 2**30


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A calibration of this machine."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    hardware.keep_calibration(catalogue()["cpu_server"].model_copy(update={"key": "this_cpu_bf16"}))
    return tmp_path / "calibration-this_cpu_bf16.json"


DAMAGED = {
    "cut": (lambda text: text[:40], "cut or damaged"),
    "empty": (lambda _: "", "cut or damaged"),
    "a list": (lambda _: "[]", "must be an object"),
    "gigabytes": (lambda text: re.sub(r'"memory_bytes": ?\d+', '"memory_bytes": 256', text), "memory_bytes: 256 - must be in bytes, from"),
    "terabytes a second": (
        lambda text: re.sub(r'"bandwidth_bytes_per_s": ?[\d.e+]+', '"bandwidth_bytes_per_s": 0.4', text),
        "bandwidth_bytes_per_s: 0.4 - must be in bytes/s",
    ),
    "a key too much": (lambda text: text.replace('"kind"', '"colour": 1, "kind"'), "colour: 1 - unknown key"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_calibration_is_one_line_and_loses_nothing(
    damage: object, says: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hardware.get("this_cpu_bf16").key == "this_cpu_bf16"
    kept.write_text(damage(kept.read_text()))  # type: ignore[operator]
    assert "this_cpu_bf16" not in hardware.devices()
    assert says in hardware.unreadable()["this_cpu_bf16"]
    assert main(["cost", "llama-100m"]) == 0  # other devices are not in the way
    capsys.readouterr()
    assert main(["cost", "llama-100m", "--hardware", "this_cpu_bf16"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and says in said and "calibrate" in said


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(SpecError, match="hardware: 'abacus' - must be one of"):
        hardware.get("abacus")
