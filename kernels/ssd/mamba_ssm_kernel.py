"""The Triton operations of mamba-ssm, for comparison: five kernels for the scan, one for the step.

CUDA only.
"""

import importlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.implementations import INSTALL, CannotRun

EXTENSION = "selective_scan_cuda"


@cache
def operation(module: str, name: str) -> Callable[..., Any]:
    """An operation of mamba_ssm.ops.triton.

    The package imports its compiled extension immediately, though these operations never call it.
    If the extension is not built, an empty module replaces it during the import. Raises CannotRun
    if the package cannot be imported.
    """
    absent = EXTENSION not in sys.modules and find_spec(EXTENSION) is None
    if absent:
        sys.modules[EXTENSION] = ModuleType(EXTENSION)
    try:
        imported = importlib.import_module(f"mamba_ssm.ops.triton.{module}")
        found: Callable[..., Any] = getattr(imported, name)
        return found
    except ImportError as error:
        why = f"{error}; `{INSTALL['mamba_ssm']}` installs it"
        raise CannotRun(f"mamba_ssm cannot be imported: {why}") from error
    finally:
        if absent:
            del sys.modules[EXTENSION]


def ssd_limit(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> str | None:
    """Why mamba-ssm does not support these arguments, or None if it does."""
    if chunk_size < 16:
        return f"chunk size {chunk_size} - mamba_ssm takes 16 or more"
    return None


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunk_size: int,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.ssd`."""
    scan = operation("ssd_combined", "mamba_chunk_scan_combined")
    y, after = scan(
        x,
        dt,
        A,
        B,
        C,
        chunk_size,
        D=D,
        initial_states=state,
        return_final_states=True,
    )
    return y, after.to(torch.float32)


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor,
) -> Tensor:
    """See `kernels.ssd_step`.

    mamba-ssm takes dt, A and D for every channel. Strides of 0 tell it that all channels of a head
    share the same values.
    """
    update = operation("selective_state_update", "selective_state_update")
    _, h, p, n = state.shape
    y: Tensor = update(
        state,
        x[:, 0],
        dt[:, 0, :, None].expand(-1, -1, p),
        A[:, None, None].expand(h, p, n),
        B[:, 0],
        C[:, 0],
        D=D[:, None].expand(h, p),
    )
    return y.unsqueeze(1)
