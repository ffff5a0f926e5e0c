"""What needs no torch does not import it. That imports run one way, lint-imports checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


TORCH_FREE = """
    design.spec design.placement design.presets
    workload speed.hardware speed.cost mixers.registry evidence.baselines costs.model costs.memory
    library
""".split()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_a_fresh_interpreter_imports_it_without_torch(module: str) -> None:
    heavy = "sorted({'torch', 'fvcore', 'transformers', 'streamlit'} & set(sys.modules))"
    result = run(sys.executable, "-c", f"import sys, hybrid_core.{module}; print({heavy})")
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_kernels_import_nothing_of_hybrid_core() -> None:
    operations = ", ".join(
        f"kernels.{name}"
        for name in "attention causal_conv1d grouped_linear selective_scan ssd counting".split()
    )
    loaded = "[name for name in sys.modules if name.startswith('hybrid_core')]"
    result = run(sys.executable, "-c", f"import sys, {operations}; print({loaded})")
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr
