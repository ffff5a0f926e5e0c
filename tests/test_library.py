"""The library's face: `import hybrid_core as h`."""

import doctest
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import hybrid_core as h
from hybrid_core import extras, library
from tests.app_environment import ROOT

PUBLIC = {
    "ArchSpec",
    "Workload",
    "presets",
    "cost",
    "forecast",
    "build",
    "profile",
    "read_config",
    "export",
}


def test_the_face_is_what_is_documented() -> None:
    assert set(h.__all__) == PUBLIC <= set(dir(h))
    with pytest.raises(AttributeError, match="no attribute 'costs_of'"):
        h.costs_of  # noqa: B018


def test_importing_it_brings_nothing_heavy() -> None:
    code = (
        "import sys, hybrid_core; "
        "print(sorted({'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# By hand, in bf16 at 8,192 tokens. Keys and values: 2 attention layers x 2 x 8 heads x 64 wide.
# Mamba-2, 11 layers: a state of d_ssm x d_state, and d_conv - 1 positions of the convolution's
# d_ssm + 2 d_state channels.
KEYS_AND_VALUES = 2 * 2 * 8 * 64 * 8192
STATES = 11 * 4096 * 128
CONVOLUTIONS = 11 * (4 - 1) * (4096 + 2 * 128)
CACHE_BYTES = 2 * (KEYS_AND_VALUES + STATES + CONVOLUTIONS)


@pytest.mark.parametrize(
    "design",
    [
        "inter-1to5-1b",
        h.presets.get("inter-1to5-1b"),
        h.presets.get("inter-1to5-1b").spec,
        ROOT / "profiles" / "presets" / "inter-1to5-1b.yaml",
    ],
    ids=["name", "preset", "spec", "path"],
)
def test_a_design_in_any_form_has_the_cache_counted_by_hand(design: library.Design) -> None:
    assert h.cost(design, context_len=8192).cache_bytes.exact == CACHE_BYTES == 45_376_000


def test_a_config_is_read_from_a_path_or_a_mapping() -> None:
    path = ROOT / "profiles" / "models" / "configs" / "mamba2-130m.json"
    assert h.read_config(path).name == "mamba2-130m"
    assert h.read_config({"model_type": "mamba2", "num_hidden_layers": 3}).pattern == "MMM"


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: h.cost("no-such"), "'no-such' - neither a preset"),
        (lambda: h.cost("llama-1b", hardware="abacus"), "hardware: 'abacus'"),
        (lambda: h.cost("llama-1b", batch_size=0), "batch_size: 0"),
        (lambda: h.export("llama-1b", to="gguf"), "to: 'gguf'"),
        (lambda: h.build("llama-1b", dtype="fp8"), "dtype: 'fp8'"),
        (lambda: h.profile("llama-1b", budget=5), "budget: 5 - unknown key"),
    ],
)
def test_bad_input_is_one_line(call: Any, line: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).startswith(line)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["build", "profile"])
def test_without_torch_the_line_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(ValueError) as error:
        getattr(h, name)("llama-1b")
    wanted = f"{name}: torch is not installed - `pip install 'hybrid-explorer[live]'` installs it"
    assert str(error.value) == wanted


def examples() -> Mapping[str, doctest.DocTest]:
    """The example of each function of the face."""
    finder = doctest.DocTestFinder(recurse=False)
    found = {}
    for name in PUBLIC - {"ArchSpec", "Workload", "presets"}:
        [example] = finder.find(getattr(library, name), name)
        found[name] = example
    return found


SLOW = {"build", "profile"}  # they bring torch
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in sorted(examples())
]


@pytest.mark.parametrize("name", NAMES)
def test_its_example_is_true(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    example = examples()[name]
    assert example.examples
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0
