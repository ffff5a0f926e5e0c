"""What the paper's own numbers say about the quality of a design: scaling laws, effects of single
choices, and an estimate of NLL."""

from typing import Any

import pandas as pd

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.ablations import effects
from hybrid_core.evidence.quality.additive import PAPER_TOKENS, coefficients
from hybrid_core.evidence.quality.calibration import coverage, held_out, widths
from hybrid_core.evidence.quality.estimator import (
    CONVENTION,
    Estimate,
    OutOfRange,
    accuracy,
    estimate,
    leave_one_out,
)
from hybrid_core.evidence.quality.mixture import Mixture, mixture
from hybrid_core.evidence.quality.quoted import Quoted, quoted
from hybrid_core.evidence.quality.scaling import COVERAGE, laws, optima, slopes

__all__ = [
    "COVERAGE",
    "PAPER_TOKENS",
    "Estimate",
    "Mixture",
    "OutOfRange",
    "Quoted",
    "accuracy",
    "effects",
    "estimate",
    "leave_one_out",
]
__all__ += [
    "coefficients",
    "coverage",
    "held_out",
    "laws",
    "mixture",
    "optima",
    "quoted",
    "record",
    "report",
    "slopes",
    "widths",
]


def record(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> dict[str, Any]:
    """What `cost --quality` adds: the loss printed of it, the nearest printed rows, and the
    estimate or the reason why there is none."""
    found = estimate(spec, tokens)
    columns = [
        "model",
        "scale",
        *baselines.COUNTS,
        "nll_dclm",
        "nll_pg19",
        "avg",
        "distance",
        "table",
    ]
    printed = quoted(spec)
    return {
        "quoted": printed._asdict() if printed else None,
        "nearest": _records(baselines.nearest(spec, 3)[columns]),
        "estimate": found._asdict() | {"coverage": COVERAGE, "convention": CONVENTION}
        if isinstance(found, Estimate)
        else None,
        "outside_the_papers_range": found.reason if isinstance(found, OutOfRange) else None,
    }


def report() -> dict[str, Any]:
    """What `quality` prints, JSON-ready: laws, optima and their slopes, the additive model,
    effects, every leave-one-out error, and how often intervals hold rows that did not make them."""
    frames = {
        "laws": laws(),
        "optima": optima(),
        "slopes": slopes(),
        "accuracy": accuracy(),
        "leave_one_out": leave_one_out(),
    }
    frames |= {"widths": widths(), "coverage": coverage(), "held_out": held_out()}
    found: dict[str, Any] = {name: _records(frame) for name, frame in frames.items()}
    return found | {
        "coefficients": coefficients(),
        "effects": {name: _records(frame) for name, frame in effects().items()},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a row, with None for what is missing."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
