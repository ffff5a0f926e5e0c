"""What the command line prints about quality, JSON-ready: for one design (`cost --quality`), and
for the models themselves (`quality`)."""

from typing import Any

import pandas as pd

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.ablations import effects
from hybrid_core.evidence.quality.additive import PAPER_TOKENS, coefficients
from hybrid_core.evidence.quality.calibration import widths
from hybrid_core.evidence.quality.estimator import (
    CONVENTION,
    Estimate,
    OutOfRange,
    accuracy,
    estimate,
    leave_one_out,
)
from hybrid_core.evidence.quality.held_out import coverage, held_out
from hybrid_core.evidence.quality.optima import laws, optima, slopes
from hybrid_core.evidence.quality.quoted import quoted
from hybrid_core.evidence.quality.scaling import COVERAGE

_NEAREST = [
    "model",
    "scale",
    *baselines.COUNTS,
    "nll_dclm",
    "nll_pg19",
    "avg",
    "distance",
    "table",
]


def record(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> dict[str, Any]:
    """What `cost --quality` adds: the loss printed for the design, the nearest printed rows, and
    the estimate or the reason why there is none."""
    printed = quoted(spec)
    found = estimate(spec, tokens)
    estimated = None
    outside = None
    if isinstance(found, Estimate):
        estimated = found._asdict()
        estimated |= {"coverage": COVERAGE, "convention": CONVENTION}
    elif isinstance(found, OutOfRange):
        outside = found.reason
    as_printed = None
    if printed:
        as_printed = printed._asdict()
    nearest = baselines.nearest(spec, 3)[_NEAREST]
    return {
        "quoted": as_printed,
        "nearest": _records(nearest),
        "unlike_the_papers": baselines.unlike_the_papers(spec),
        "estimate": estimated,
        "outside_the_papers_range": outside,
    }


def report() -> dict[str, Any]:
    """What `quality` prints: laws, optima and their slopes, the additive model, effects, every
    leave-one-out error, and how often intervals contain held-out rows."""
    return {
        "laws": _records(laws()),
        "optima": _records(optima()),
        "slopes": _records(slopes()),
        "accuracy": _records(accuracy()),
        "leave_one_out": _records(leave_one_out()),
        "widths": _records(widths()),
        "coverage": _records(coverage()),
        "held_out": _records(held_out()),
        "coefficients": coefficients(),
        "effects": {name: _records(frame) for name, frame in effects().items()},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping per row, with None for missing values."""
    return [_without_nan(row) for row in frame.to_dict("records")]


def _without_nan(row: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        found[str(key)] = value
        if pd.isna(value):
            found[str(key)] = None
    return found
