"""What the scaling laws say: their constants, the best size for a budget, and how it grows with the
budget. Intervals contain COVERAGE of the laws fitted to resampled rows."""

from typing import Any

import numpy as np
import pandas as pd

from hybrid_core.evidence.quality.scaling import (
    COVERAGE,
    SCALED,
    Array,
    ScalingLaw,
    law,
    resampled_laws,
    runs_of,
    scaling_rows,
)

TAILS = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
STUDENT_3 = 2.353  # 95 % quantile of Student's t, three degrees of freedom: COVERAGE of both sides


def laws() -> pd.DataFrame:
    """The constants of each family's law with intervals, and how far printed losses lie from it."""
    found = []
    for family in SCALED:
        params, tokens, loss = runs_of(family)
        fitted, _ = law(family)
        error = abs(fitted.loss(params, tokens)[0] - loss)
        record: dict[str, Any] = {
            "family": family,
            "rows": len(loss),
            "mean_error": error.mean(),
            "largest_error": error.max(),
        }
        drawn = resampled_laws(family)
        for name in ScalingLaw._fields:
            record[name] = float(getattr(fitted, name)[0])
            record |= _interval(name, getattr(drawn, name))
        found.append(record)
    return pd.DataFrame(found)


def _interval(name: str, drawn: Array) -> dict[str, float]:
    low, high = np.quantile(drawn, TAILS)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def optima() -> pd.DataFrame:
    """The best size at each budget: by the paper's quadratic in log N (IsoFLOP), and by the law
    with an interval."""
    found: list[dict[str, Any]] = []
    for family in SCALED:
        _, weights = law(family)
        rows = scaling_rows().query("model == @family").assign(weight=weights)
        for budget, runs in rows.groupby("train_flops"):
            flops = float(str(budget))
            params, tokens = _isoflop_optimum(flops, runs)
            record = {
                "family": family,
                "budget_flops": flops,
                "runs": len(runs),
                "params": params,
                "tokens": tokens,
                "tokens_per_param": tokens / params,
            }
            found.append(record | _law_optimum(family, flops, flops / (params * tokens)))
    return pd.DataFrame(found)


def _isoflop_optimum(flops: float, runs: pd.DataFrame) -> tuple[float, float]:
    """Parameters and tokens at the minimum of a quadratic in log N through the runs of one budget.

    Runs keep the weight that Huber's loss gave them in the law: the quadratic has four points at
    most and cannot detect an outlier. FLOPs per token at the minimum are interpolated between the
    runs."""
    log_n = np.log(runs["params"].to_numpy())
    curve = np.polyfit(
        log_n,
        runs["nll_dclm"],
        2,
        w=np.sqrt(runs["weight"]),
    )
    best = -curve[1] / (2 * curve[0])
    log_flops_per_token = np.log(flops / runs["tokens"])
    flops_per_token = np.exp(np.interp(best, log_n, log_flops_per_token))
    return float(np.exp(best)), float(flops / flops_per_token)


def _law_optimum(family: str, flops: float, flops_per_pair: float) -> dict[str, float]:
    """Parameters with the lowest NLL by the family's law, and their tokens per parameter with an
    interval. `flops_per_pair`: training FLOPs / (params * tokens)."""
    budgets, pairs = np.array([flops]), np.array([flops_per_pair])
    params = float(law(family)[0].optimal_params(budgets, pairs)[0, 0])
    drawn = resampled_laws(family).optimal_params(budgets, pairs)[:, 0]
    product = flops / flops_per_pair  # params * tokens
    name = "law_tokens_per_param"
    found = {"law_params": params, name: product / params**2}
    return found | _interval(name, product / drawn**2)


def slopes() -> pd.DataFrame:
    """Per family, the exponents of N_opt and D_opt against FLOPs, and tokens per parameter at the
    optimum: geometric mean, and at the first and last budget.

    IsoFLOP: a straight line through the budgets' optima in logarithms, with the interval of its
    slope. Law: N_opt grows with exponent beta / (alpha + beta) at a constant number of FLOPs per
    parameter and token."""
    found: list[dict[str, Any]] = []
    for family, at in optima().groupby("family", sort=False):
        record: dict[str, Any] = {"family": family}
        for name in ("params", "tokens"):
            record |= _slope(f"{name}_exponent", at["budget_flops"], at[name])
        name = "law_params_exponent"
        fitted, _ = law(str(family))
        record[name] = float(_params_exponent(fitted)[0])
        record |= _interval(name, _params_exponent(resampled_laws(str(family))))
        for name in ("tokens_per_param", "law_tokens_per_param"):
            record[name] = float(np.exp(np.log(at[name]).mean()))
            record[f"{name}_first"] = float(at[name].iloc[0])
            record[f"{name}_last"] = float(at[name].iloc[-1])
        found.append(record)
    return pd.DataFrame(found)


def _slope(name: str, budgets: pd.Series, best: pd.Series) -> dict[str, float]:
    """The slope of a line in logarithms through five points, with its interval."""
    line, covariance = np.polyfit(
        np.log(budgets),
        np.log(best),
        1,
        cov=True,
    )
    half = STUDENT_3 * float(np.sqrt(covariance[0, 0]))
    return {
        name: line[0],
        f"{name}_low": line[0] - half,
        f"{name}_high": line[0] + half,
    }


def _params_exponent(fits: ScalingLaw) -> Array:
    return fits.beta / (fits.alpha + fits.beta)
