"""Every Triton kernel compiles for an H100, which needs none. In a process of its own: here the
interpreter may have the kernels."""

import os
import subprocess
import sys

import pytest

from kernels.dispatch import OPERATIONS


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiles_within_the_shared_memory_of_an_h100(operation: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.kernels.compile_for_h100", operation, "bfloat16"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
