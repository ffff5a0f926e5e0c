"""Where tools/install.sh takes torch from: its calls of pip, in order, in an environment of stubs
that write down how they are called."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.app_environment import ROOT, required

CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # as pytorch.org gives it
TORCH = next(
    str(requirement) for requirement in required("requirements.txt") if requirement.name == "torch"
)
REST = "pip install --quiet -r requirements.txt"


def stub(path: Path, says: str) -> None:
    """A program that writes its name and arguments into the log and then does what `says` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>"$LOG"\n{says}\n')
    path.chmod(0o755)


def installed(
    place: Path,
    *,
    driver: bool,
    answers: bool,
    refuses: str = "no such argument",
    torch_index: str = "",
) -> list[str]:
    """The calls that install.sh makes, `nvidia-smi` left out.

    `driver`: whether nvidia-smi finds one; `answers`: whether the CPU index does; `refuses`: with
    which argument pip fails."""
    log = place / "log"
    stub(place / "venv" / "bin" / "pip", f'case "$*" in *"{refuses}"*) exit 1;; esac')
    # Python is asked whether the index answers, and after the installation whether torch sees a
    # GPU: here it never does.
    stub(
        place / "venv" / "bin" / "python",
        f'case "$*" in *urlopen*) exit {int(not answers)};; esac; exit 1',
    )
    stub(place / "bin" / "nvidia-smi", f"exit {int(not driver)}")
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "LOG": str(log), "TORCH_INDEX": torch_index}
    script = ["sh", "tools/install.sh", str(place / "venv")]
    subprocess.run(script, cwd=ROOT, env=environment, check=True, capture_output=True)
    calls = log.read_text().splitlines()
    probe = [call for call in calls if "urlopen" in call]
    assert all(call.endswith(f"{CPU_INDEX}/torch/") for call in probe)
    return [
        "probe" if call in probe else call
        for call in calls
        if not call.startswith("nvidia-smi") and "is_available" not in call
    ]


DEFAULT = f"pip install --quiet {TORCH}"
FROM_CPU_INDEX = f"pip install --quiet --index-url {CPU_INDEX} {TORCH}"


def test_with_a_driver_torch_comes_from_the_default_index(tmp_path: Path) -> None:
    assert installed(tmp_path, driver=True, answers=True) == [DEFAULT, REST]


def test_without_a_driver_it_is_the_cpu_build(tmp_path: Path) -> None:
    assert installed(tmp_path, driver=False, answers=True) == ["probe", FROM_CPU_INDEX, REST]


def test_without_an_answer_from_the_cpu_index_it_is_the_default_one(tmp_path: Path) -> None:
    assert installed(tmp_path, driver=False, answers=False) == ["probe", DEFAULT, REST]


def test_where_the_cpu_index_lacks_the_wheel_it_is_the_default_one(tmp_path: Path) -> None:
    calls = installed(tmp_path, driver=False, answers=True, refuses=CPU_INDEX)
    assert calls == ["probe", FROM_CPU_INDEX, DEFAULT, REST]


@pytest.mark.parametrize("driver", [True, False])
def test_torch_index_wins(tmp_path: Path, driver: bool) -> None:
    calls = installed(
        tmp_path, driver=driver, answers=True, torch_index="https://mirror.example/torch"
    )
    assert calls == [f"pip install --quiet --index-url https://mirror.example/torch {TORCH}", REST]


def test_an_index_that_was_named_and_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        installed(
            tmp_path,
            driver=False,
            answers=True,
            refuses="mirror.example",
            torch_index="https://mirror.example/torch",
        )
