"""Accelerators: memory as drivers report it, and calibrations that somebody edited or cut."""

import json
import os
import re
from pathlib import Path

import pytest

from hybrid_core.cli.main import main
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import Rates, catalogue
from hybrid_core.validation import SpecError

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
    rates = Rates(
        dtype="bf16", linear=((1, 1e-9), (8, 2e-9)), call_s={"attention": 1e-5},
        **dict.fromkeys(("attention_flops_per_s", "window_flops_per_s", "scan_flops_per_s"), 1e11),
        **dict.fromkeys(("kv_bytes_per_s", "state_bytes_per_s", "elementwise_bytes_per_s"), 1e10),
    )  # fmt: skip
    hardware.keep_calibration(
        catalogue()["cpu_server"].model_copy(update={"key": "this_cpu_bf16", "rates": rates})
    )
    return tmp_path / "calibration-this_cpu_bf16.json"


DAMAGED = {
    "cut": (lambda text: text[:40], "cut or damaged"),
    "empty": (lambda _: "", "cut or damaged"),
    "a list": (lambda _: "[]", "must be an object"),
    "gigabytes": (
        lambda text: re.sub(r'"memory_bytes": ?\d+', '"memory_bytes": 256', text),
        "memory_bytes: 256 - must be in bytes, from",
    ),
    "terabytes a second": (
        lambda text: re.sub(
            r'"bandwidth_bytes_per_s": ?[\d.e+]+', '"bandwidth_bytes_per_s": 0.4', text
        ),
        "bandwidth_bytes_per_s: 0.4 - must be in bytes/s",
    ),
    "a rate that is no number": (
        lambda text: re.sub(r'"scan_flops_per_s": ?[\d.e+]+', '"scan_flops_per_s": NaN', text),
        "nan - must be",
    ),
    "seconds that are no number": (lambda text: text.replace("2e-9", "NaN"), "linear.1.1"),
    "no rows": (
        lambda text: re.sub(r'"linear": ?\[.*?\](?=,\s*"att)', '"linear": []', text, flags=re.S),
        "linear",
    ),
    "fewer rows": (
        lambda text: re.sub(r"\b8,", "1,", text, count=1),
        "rows must increase from point to point",
    ),
    "no calls": (
        lambda text: re.sub(r'"call_s": ?\{.*?\}', '"call_s": {}', text, flags=re.S),
        "call_s",
    ),
    "another device's": (
        lambda text: text.replace('"this_cpu_bf16"', '"h100_sxm"'),
        "key: 'h100_sxm' - must match the file's name",
    ),
    "a key too much": (
        lambda text: text.replace('"kind"', '"colour": 1, "kind"'),
        "colour: 1 - unknown key",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_calibration_is_one_line_and_loses_nothing(
    damage: object, says: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hardware.get("this_cpu_bf16").key == "this_cpu_bf16"
    kept.write_text(damage(kept.read_text()))  # type: ignore[operator]
    assert "this_cpu_bf16" not in hardware.devices()
    assert says in hardware.unreadable()["this_cpu_bf16"]
    assert main(["cost", "llama-100m", "--json"]) == 0  # other devices are not in the way
    told = capsys.readouterr()
    assert json.loads(told.out)["fit"]
    assert (
        len(told.err.splitlines()) == 1
        and str(kept) in told.err
        and says in told.err
        and "delete" in told.err
    )
    assert main(["cost", "llama-100m", "--hardware", "this_cpu_bf16"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and says in said and "calibrate" in said


def test_what_is_no_file_is_left_out_too(kept: Path) -> None:
    text = kept.read_bytes()
    (kept.parent / "calibration-a_folder.json").mkdir()
    os.mkfifo(kept.parent / "calibration-a_pipe.json")  # which nobody writes to
    (kept.parent / "calibration-a_link_to_nothing.json").symlink_to("nowhere")
    (kept.parent / "calibration-bytes.json").write_bytes(b"\xff\xfe\x00" + text)
    assert list(hardware.calibrated()) == ["this_cpu_bf16"]
    assert [(key, len(line.splitlines())) for key, line in hardware.unreadable().items()] == [
        ("a_folder", 1), ("a_link_to_nothing", 1), ("a_pipe", 1), ("bytes", 1),
    ]  # fmt: skip
    assert "not a file - delete" in hardware.unreadable()["a_folder"]


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(SpecError, match="hardware: 'abacus' - must be one of"):
        hardware.get("abacus")


def test_a_calibration_is_kept_by_device_and_dtype() -> None:
    assert hardware.calibration_key("cuda:1", "bf16") == "this_cuda1_bf16"
    assert hardware.calibration_key("cpu", "fp32") == "this_cpu_fp32"
