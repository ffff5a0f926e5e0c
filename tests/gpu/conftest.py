"""What only a CUDA device can pass: `python -m pytest -m gpu`. Without one these tests are skipped.

HYBRID_GPU_REHEARSAL=1 runs their bodies on the CPU instead - eager steps in place of graphs, Triton
in its interpreter, smaller sizes - so that names, shapes and references are known to be right
before a GPU is at hand."""

import os

import pytest
import torch

from tests.kernels.conftest import (
    DEVICE,
)  # also tells Triton's interpreter, where there is no device

REHEARSAL = os.environ.get("HYBRID_GPU_REHEARSAL") == "1"


@pytest.fixture
def device() -> torch.device:
    """The first CUDA device; in a rehearsal without one, the CPU."""
    if DEVICE == "cuda":
        return torch.device("cuda:0")
    if REHEARSAL:
        return torch.device("cpu")
    pytest.skip("needs a CUDA device")


@pytest.fixture
def second_device() -> torch.device:
    """A CUDA device that is not the current one; in a rehearsal the CPU."""
    if torch.cuda.device_count() > 1:
        return torch.device("cuda:1")
    if REHEARSAL and DEVICE == "cpu":
        return torch.device("cpu")
    pytest.skip("needs two CUDA devices")
