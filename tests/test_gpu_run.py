"""What is prepared for a day with a GPU: a record that outlives failures, the parts of
benchmarks.gpu, tools/gpu-run.sh."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, measured
from benchmarks.record import AnotherDevice, Record, Result, Step, results
from hybrid_core.design import presets
from hybrid_core.interop import published
from hybrid_core.live.profiling.device import resolve
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload
from tests.app_environment import ROOT, required
from tests.gpu.test_decode import FAMILIES

HERE = {"name": "this device"}


class Steps:
    """Steps that note who was called; those in `broken` raise."""

    def __init__(self, *names: str, broken: tuple[str, ...] = ()) -> None:
        self.called: list[str] = []
        self.broken = broken
        self.steps: dict[str, Step] = {name: lambda name=name: self.call(name) for name in names}  # type: ignore[misc]

    def call(self, name: str) -> Result:
        self.called.append(name)
        if name in self.broken:
            raise ValueError(f"{name} differs\nby far")
        return {"ms": len(self.called)}


def states(path: Path) -> dict[str, str]:
    """The state of each step on disk."""
    return {name: step["state"] for name, step in json.loads(path.read_text())["steps"].items()}


def test_a_step_that_raises_is_recorded_as_failed_and_the_next_one_runs(tmp_path: Path) -> None:
    steps, path = Steps("a", "b", "c", broken=("b",)), tmp_path / "x.json"
    assert not Record(path, "a command", HERE).run(steps.steps)
    assert steps.called == ["a", "b", "c"]
    assert states(path) == {"a": "done", "b": "failed", "c": "done"}
    assert json.loads(path.read_text())["steps"]["b"] == {
        "state": "failed",
        "why": "ValueError: b differs",
    }
    assert results(path) == {"a": {"ms": 1}, "c": {"ms": 3}}


def test_a_second_call_does_what_is_left_the_untried_first(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    Record(path, "a command", HERE).run(Steps("a", "b", broken=("a",)).steps)
    again = Steps("a", "b", "c")
    assert Record(path, "another", HERE).run(again.steps)
    assert again.called == ["c", "a"]
    assert set(results(path)) == {"a", "b", "c"}


def test_after_every_step_the_file_is_whole_and_says_which_step_is_running(tmp_path: Path) -> None:
    path, seen = tmp_path / "x.json", []

    def look() -> Result:
        seen.append(states(path))
        return {}

    Record(path, "a command", HERE).run({"a": look, "b": look})
    assert seen == [{"a": "started"}, {"a": "done", "b": "started"}]
    assert [left.name for left in tmp_path.iterdir()] == ["x.json"]


def test_a_process_that_is_killed_in_a_step_leaves_the_others_results(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    code = (
        "import os; from pathlib import Path; from benchmarks.record import Record\n"
        f"record = Record(Path({str(path)!r}), '', {{}})\n"
        "record.run({'a': lambda: {'ms': 1}, 'b': lambda: os.kill(os.getpid(), 9)})"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9
    assert states(path) == {"a": "done", "b": "started"}
    again = Steps("a", "b", "c")
    Record(path, "", {}).run(again.steps)
    assert again.called == ["c", "b"]


def test_figures_of_two_devices_do_not_meet_in_one_record(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    Record(path, "", HERE).run(Steps("a").steps)
    with pytest.raises(
        AnotherDevice, match="was measured on this device, this is that device: use another folder"
    ):
        Record(path, "", {"name": "that device"})
    assert states(path) == {"a": "done"}


def test_a_device_that_no_longer_answers_ends_the_part_and_keeps_what_is_done(
    tmp_path: Path,
) -> None:
    steps, path = Steps("a", "b", broken=("a",)), tmp_path / "x.json"
    assert not Record(path, "", HERE).run(steps.steps, go_on=lambda: False)
    assert states(path) == {"a": "failed"}


def no_device() -> str:
    """The line for a CUDA device that is not there."""
    with pytest.raises(SpecError, match=r"^device: 'cuda' - .*") as error:
        resolve("cuda")
    return str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu_every_part_asked_for_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["devices", "decode", "--out", str(tmp_path)]) == 1
    line = no_device()
    assert capsys.readouterr().out == line + "\n"
    assert [
        json.loads((tmp_path / f"{part}.json").read_text())["why"] for part in ("devices", "decode")
    ] == [line, line]


def test_a_part_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["decoding"])
    assert (
        "no part is called 'decoding' - must be one of devices, operations, decode"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_only_the_comparison_with_transformers_needs_it() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; "
        "import benchmarks.gpu, benchmarks.operations"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_family_that_is_built_has_its_graph_and_gradients_tested_on_a_gpu() -> None:
    built = {model.family for model in published.models().values() if model.not_built is None}
    assert {published.models()[name].family for name in FAMILIES} == built


# ---------------------------------------------------------------- tools/gpu-run.sh
# With a python that writes down its calls.

PARTS = [
    "devices",
    "pytest",
    "operations",
    "decode",
    "paper",
    "prefill",
    "calibrate",
    "niah",
    "transformers",
]


def run(
    place: Path, says: str, **environment: str
) -> tuple[int, dict[str, tuple[str, str]], list[str]]:
    """Exit code, (exit code, words) of each part, and the calls of python, which does what `says`
    says."""
    python, out = place / "python", place / "out"
    python.write_text(f'#!/bin/sh\necho "$*" >>"{place}/calls"\n{says}\n')
    python.chmod(0o755)
    (place / "calls").touch()
    command = ["sh", "tools/gpu-run.sh", str(out)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHON": str(python)} | environment,
        capture_output=True,
        check=False,
    )
    table = out / "run.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()] if table.exists() else []
    return (
        done.returncode,
        {name: (code, words) for name, code, _, words in rows},
        (place / "calls").read_text().splitlines(),
    )


def test_the_run_asks_for_every_part_in_order_in_a_process_of_its_own(tmp_path: Path) -> None:
    code, parts, calls = run(tmp_path, "exit 0")
    assert (code, list(parts), set(parts.values())) == (0, PARTS, {("0", "done")})
    assert [call.split()[2] if "benchmarks" in call else "pytest" for call in calls] == PARTS
    assert all(f"--out {tmp_path}/out" in call for call in calls if "benchmarks" in call)


def test_without_a_device_the_run_ends_at_once_with_its_line_in_the_results(tmp_path: Path) -> None:
    code, parts, calls = run(tmp_path, 'echo "no device here"; exit 1')
    assert (code, parts, len(calls)) == (1, {"devices": ("1", "no device here")}, 1)


def test_a_part_that_hangs_loses_itself_alone(tmp_path: Path) -> None:
    code, parts, _ = run(tmp_path, 'case "$*" in *decode*) exec sleep 60;; esac', LIMIT="2")
    assert code == 1
    assert parts.pop("decode") == ("124", "stopped after 2 s")
    assert set(parts.values()) == {("0", "done")} and len(parts) == len(PARTS) - 1


def test_parts_are_taken_by_name(tmp_path: Path) -> None:
    code, parts, calls = run(tmp_path, "exit 0", PARTS="niah paper")
    assert (code, list(parts), len(calls)) == (0, ["devices", "paper", "niah"], 3)


@pytest.mark.parametrize("wrong", [{"PARTS": "papre"}, {"LIMIT": "a minute"}, {"IN_ALL": "1.5"}])
def test_a_part_or_a_limit_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    code, parts, calls = run(tmp_path, "exit 0", **wrong)
    assert (code, parts, calls) == (2, {}, [])


@pytest.mark.parametrize("held", ['{"steps": {', "[]", '{"steps": []}'])
def test_a_damaged_record_is_put_aside_and_begun_anew(tmp_path: Path, held: str) -> None:
    path = tmp_path / "paper.json"
    path.write_text(held)
    assert Record(path, "", HERE).run(Steps("a").steps)
    assert states(path) == {"a": "done"} and path.with_suffix(".damaged").read_text() == held


def test_when_the_time_of_all_is_used_up_no_part_begins(tmp_path: Path) -> None:
    code, parts, calls = run(tmp_path, "exit 0", PARTS="paper niah", IN_ALL="0")
    assert (code, calls) == (1, [])
    assert parts == {"devices": ("-", "not begun: the time is used up")}


def test_the_wheels_are_what_a_gpu_machine_lacks_and_the_pages_alone_do_not_need() -> None:
    there = {"torch", "numpy", "pandas", "PyYAML", "safetensors", "transformers", "Jinja2"}
    pages = {"streamlit", "uvloop", "plotly"}
    needed = {requirement.name for requirement in required("requirements.txt")} - there - pages
    carried = re.findall(r"\$\(pinned ([\w-]+)\)", (ROOT / "tools" / "gpu-wheels.sh").read_text())
    assert needed | {"flash-linear-attention", "fla-core", "mamba-ssm"} == set(carried)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_on_a_machine_without_a_gpu_the_real_run_says_so(tmp_path: Path) -> None:
    command = ["sh", "tools/gpu-run.sh", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.endswith(f"\t{no_device()}\n") and len(done.stdout.splitlines()) == 1
    assert (tmp_path / "run.tsv").read_text() == done.stdout


# ---------------------------------------------------------------- an entry of profiles/measured


def of_a_run(folder: Path, name: str = "NVIDIA H100 80GB HBM3") -> Path:
    """The records of a run on a device, with figures made up: half of h100_sxm's ceilings."""
    device = hardware.get("h100_sxm")
    rates = {"dtype": "bf16", "linear": [[1, 1e-12], [64, 2e-12]], "call_s": {"attention": 1e-6}}
    rates |= dict.fromkeys(
        ("attention_flops_per_s", "window_flops_per_s", "scan_flops_per_s"), 1e14
    )
    rates |= dict.fromkeys(("kv_bytes_per_s", "state_bytes_per_s", "elementwise_bytes_per_s"), 1e12)
    calibration = device.model_dump(mode="json") | {"key": "this_cuda0_bf16", "rates": rates}
    environment = {"name": name, "packages": {"torch": "2.11.0", "triton": "3.6.0"}}

    def failing() -> Result:
        raise ValueError("differs")

    decode = {"design": "llama-1b", "batch_size": 4, "context_len": 2048, "median_s": 0.002}
    prefill = {"design": "llama-1b", "batch_size": 1, "prompt_len": 8192, "best_s": 0.1}
    generation = {"rows": [{"total_len": 2048, "latency_s": 3.0, "tokens_per_s": 2048.0}]}
    Record(folder / "calibrate.json", "", environment).run({"bf16": lambda: calibration})
    Record(folder / "decode.json", "", environment).run(
        {"llama-1b at 2048 tokens": lambda: decode, "mamba-1b at 2048 tokens": failing}
    )
    Record(folder / "prefill.json", "", environment).run({"llama-1b": lambda: prefill})
    Record(folder / "paper.json", "", environment).run(
        {"llama-1b": lambda: {"decode": {"batch_size": 4}, "generation": generation}}
    )
    return folder


def test_a_run_becomes_a_device_that_hardware_reads_and_the_rows_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = measured.write(of_a_run(tmp_path / "run"), tmp_path / "measured")
    assert path.name == "nvidia_h100_80gb_hbm3.json"
    device = hardware.read_device(path)
    assert (device.key, device.name) == (
        "nvidia_h100_80gb_hbm3_bf16",
        "NVIDIA H100 80GB HBM3 (bf16, measured)",
    )
    assert device.rates and device.rates.linear == ((1, 1e-12), (64, 2e-12))
    assert "torch 2.11.0, triton 3.6.0" in device.sources[0].text
    assert path.with_suffix(".csv").read_text().splitlines() == [
        "design,phase,batch_size,tokens,seconds,tokens_per_s",
        "llama-1b,prefill,1,8192,0.1,81920.0",
        "llama-1b,decode,4,2048,0.002,2000.0",
        "llama-1b,generation,4,2048,3.0,2048.0",
    ]
    assert list(measured.unfinished(tmp_path / "run")) == [
        f"1 steps are not done: see {tmp_path}/run/decode.json for the reasons"
    ]
    (tmp_path / "hardware").symlink_to(ROOT / "profiles" / "hardware")
    monkeypatch.setattr(hardware, "PROFILES", tmp_path)
    hardware.catalogue.cache_clear()
    assert hardware.get(device.key) == device and hardware.get("h100_sxm").rates is None
    predicted = cost(presets.get("llama-1b").spec, Workload(), device).predicted
    assert "calibrated rates of NVIDIA H100 80GB HBM3" in predicted.basis
    monkeypatch.undo()
    hardware.catalogue.cache_clear()


def test_a_run_on_two_devices_or_without_a_calibration_makes_no_entry(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path / "run")
    (folder / "calibrate.json").unlink()
    with pytest.raises(
        SpecError,
        match=r"calibrate\.json - no finished calibration; "
        r"`python -m benchmarks\.gpu calibrate",
    ):
        measured.write(folder, tmp_path / "measured")
    Record(folder / "niah.json", "", {"name": "NVIDIA H200"}).run(Steps("a").steps)
    with pytest.raises(SpecError, match="has records of NVIDIA H100 80GB HBM3, NVIDIA H200"):
        measured.write(folder, tmp_path / "measured")
    assert not (tmp_path / "measured").exists()


def test_nothing_claims_to_be_measured_that_is_not() -> None:
    """Every file in profiles/measured is one that hardware reads."""
    for path in (ROOT / "profiles" / "measured").glob("*.json"):
        assert hardware.get(hardware.read_device(path).key).rates
