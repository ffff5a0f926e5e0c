"""Scaling laws fitted to Tables 14 and 15: NLL against parameters and tokens, and the best size for
a budget.

Parameters are non-embedding, and active where there are experts.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines

Array = np.ndarray[Any, np.dtype[np.float64]]

COVERAGE = 0.9  # of every interval
TAILS = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
SCALED = ("llama", "mamba", "inter", "intra")
SAME_SIZE = 1.5  # parameters that differ by a smaller factor are one scale; the paper's scales lie about three times apart
TOKENS_PER_STEP = 2**19  # "0.5M tokens" per step
EXPONENTS = np.arange(0.025, 1.2001, 0.025)
HUBER = (
    0.01  # nats per token: several times the rounding of a loss, so that only outliers lose weight
)
DRAWS = 200


@cache
def scaling_rows() -> pd.DataFrame:
    """Tables 14 and 15 with `params` (exact) and `tokens` of every run.

    Tokens are printed to a billion and steps to a thousand: 25 % apart for the shortest runs. But
    budget over tokens is one number per model, known to 1.4 % or better from its longest run;
    tokens = budget / that number, and all printed steps agree with it."""
    frame = baselines.table("table14_15_scaling")
    same = [frame["model"], frame["scale"]]
    longest = frame["steps_k"] == frame.groupby(same)["steps_k"].transform("max")
    flops_per_token = frame["train_flops"].where(longest) / (
        frame["steps_k"] * 1000 * TOKENS_PER_STEP
    )
    tokens = frame["train_flops"] / flops_per_token.groupby(same).transform("max")
    params = [
        active_params(trained_preset(model, scale)) for model, scale in zip(*same, strict=True)
    ]
    return frame.assign(tokens=tokens, params=params)


def trained_preset(model: str, scale: str) -> ArchSpec:
    """The preset of a row of Tables 14 and 15; its hybrids are 1:5."""
    ratio = "-1to5" if model in ("inter", "intra") else ""
    return presets.get(f"{model}{ratio}-{scale.lower()}").spec


def active_params(spec: ArchSpec) -> int:
    """Non-embedding parameters that one token uses."""
    params = model_costs(spec).params()
    return params.active - params.embedding


class ScalingLaw(NamedTuple):
    """NLL = irreducible + a / (params / 1e9)^alpha + b / (tokens / 1e9)^beta (Hoffmann et al.,
    arXiv 2203.15556). One entry per fit."""

    irreducible: Array
    a: Array
    b: Array
    alpha: Array
    beta: Array

    def loss(self, params: Array | float, tokens: Array | float) -> Array:
        """NLL, fits x points."""
        e, a, b, alpha, beta = (np.atleast_1d(part)[:, None] for part in self)
        return np.asarray(
            e
            + a * (np.atleast_1d(params) / 1e9) ** -alpha
            + b * (np.atleast_1d(tokens) / 1e9) ** -beta
        )

    def optimal_params(self, flops: Array, flops_per_pair: Array) -> Array:
        """Parameters with the lowest NLL, fits x budgets; `flops_per_pair`: training FLOPs /
        (params * tokens), 6 plus the mixers'."""
        _, a, b, alpha, beta = (part[:, None] for part in self)
        pairs = flops / flops_per_pair / 1e18
        return np.asarray(1e9 * (alpha * a / (beta * b) * pairs**beta) ** (1 / (alpha + beta)))


def fit_law(
    params: Array, tokens: Array, loss: Array, weights: Array, rounds: int = 8
) -> tuple[ScalingLaw, Array]:
    """Huber regression of the law, one fit per line of `weights` (fits x rows); also the weights
    that it left each row (0 to 1).

    Hoffmann et al. put Huber's loss on log NLL; here it is on NLL, and solved by reweighted least
    squares."""
    robust = np.ones_like(weights)
    for _ in range(rounds):
        fitted = _least_squares(params, tokens, loss, weights * robust)
        robust = np.minimum(1, HUBER / np.maximum(abs(loss - fitted.loss(params, tokens)), 1e-12))
    return fitted, robust


def _least_squares(params: Array, tokens: Array, loss: Array, weights: Array) -> ScalingLaw:
    """Every pair of EXPONENTS, with the regression on u = params^-alpha and v = tokens^-beta in
    closed form; the best pair per fit."""
    w = weights / weights.sum(axis=1, keepdims=True)
    u, v = (params / 1e9)[:, None] ** -EXPONENTS, (tokens / 1e9)[:, None] ** -EXPONENTS
    mean_u, mean_v, mean_y = w @ u, w @ v, w @ loss
    uu, vv = (w @ u**2 - mean_u**2)[:, :, None], (w @ v**2 - mean_v**2)[:, None, :]
    uy, vy = (w * loss) @ u - mean_u * mean_y[:, None], (w * loss) @ v - mean_v * mean_y[:, None]
    uy, vy = uy[:, :, None], vy[:, None, :]
    uv = (w[:, None, :] * u.T) @ v - mean_u[:, :, None] * mean_v[:, None, :]
    determinant = uu * vv - uv**2
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (uy * vv - vy * uv) / determinant, (vy * uu - uy * uv) / determinant
    explained = np.where(
        (determinant > 1e-9 * uu * vv) & (a > 0) & (b > 0), a * uy + b * vy, -np.inf
    )
    fits, best = np.arange(len(w)), explained.reshape(len(w), -1).argmax(axis=1)
    i, j = best // len(EXPONENTS), best % len(EXPONENTS)
    a, b = a[fits, i, j], b[fits, i, j]
    return ScalingLaw(
        mean_y - a * mean_u[fits, i] - b * mean_v[fits, j], a, b, EXPONENTS[i], EXPONENTS[j]
    )


def runs_of(family: str) -> tuple[Array, Array, Array]:
    """Parameters, tokens and NLL of a family's runs."""
    rows = scaling_rows().query("model == @family")
    return rows["params"].to_numpy(), rows["tokens"].to_numpy(), rows["nll_dclm"].to_numpy()


def has_run_of_size(family: str, params: float) -> bool:
    """Whether a family has a run of such a size, within a factor of SAME_SIZE."""
    sizes = runs_of(family)[0]
    return bool((abs(np.log(sizes / params)) <= np.log(SAME_SIZE)).any())


@cache
def law(family: str) -> tuple[ScalingLaw, Array]:
    """The law of one of SCALED, and the weight that Huber's loss left each of its rows."""
    params, tokens, loss = runs_of(family)
    found, weights = fit_law(params, tokens, loss, np.ones((1, len(loss))))
    return found, weights[0]


@cache
def resampled_laws(family: str) -> ScalingLaw:
    """The law fitted to `DRAWS` resamples of the family's rows, drawn with replacement from a fixed
    seed."""
    params, tokens, loss = runs_of(family)
    drawn = np.random.default_rng(0).multinomial(
        len(loss), np.full(len(loss), 1 / len(loss)), DRAWS
    )
    return fit_law(params, tokens, loss, drawn.astype(float))[0]


def laws() -> pd.DataFrame:
    """The constants of each family's law with intervals from resampling the rows, and how far
    printed losses lie from it."""
    found = []
    for family in SCALED:
        params, tokens, loss = runs_of(family)
        error = abs(law(family)[0].loss(params, tokens)[0] - loss)
        record: dict[str, Any] = {
            "family": family,
            "rows": len(loss),
            "mean_error": error.mean(),
            "largest_error": error.max(),
        }
        for name, value, drawn in zip(
            ScalingLaw._fields, law(family)[0], resampled_laws(family), strict=True
        ):
            record |= {name: float(value[0]), **_interval(name, drawn)}
        found.append(record)
    return pd.DataFrame(found)


def _interval(name: str, drawn: Array) -> dict[str, float]:
    return {
        f"{name}_{end}": float(value)
        for end, value in zip(("low", "high"), np.quantile(drawn, TAILS), strict=True)
    }


def optima() -> pd.DataFrame:
    """The best size at each budget: by the paper's quadratic in log N (IsoFLOP), and by the law
    with an interval.

    Rows of one budget weigh what Huber's loss left them in the law: the quadratic has four points
    at most and cannot tell an outlier."""
    found: list[dict[str, Any]] = []
    for family in SCALED:
        rows = scaling_rows().query("model == @family").assign(weight=law(family)[1])
        for budget, runs in rows.groupby("train_flops"):
            flops, log_n = float(str(budget)), np.log(runs["params"].to_numpy())
            curve = np.polyfit(log_n, runs["nll_dclm"], 2, w=np.sqrt(runs["weight"]))
            best = -curve[1] / (2 * curve[0])
            flops_per_token = np.exp(np.interp(best, log_n, np.log(flops / runs["tokens"])))
            n, d = float(np.exp(best)), float(flops / flops_per_token)
            pairs = np.array([flops / (n * d)])
            by_law, drawn = (
                one.optimal_params(np.array([flops]), pairs)[:, 0]
                for one in (law(family)[0], resampled_laws(family))
            )
            record = {
                "family": family,
                "budget_flops": flops,
                "runs": len(runs),
                "params": n,
                "tokens": d,
                "tokens_per_param": d / n,
            }
            record |= {
                "law_params": float(by_law[0]),
                "law_tokens_per_param": flops / pairs[0] / float(by_law[0]) ** 2,
            }
            found.append(record | _interval("law_tokens_per_param", flops / pairs[0] / drawn**2))
    return pd.DataFrame(found)


def slopes() -> pd.DataFrame:
    """Per family, the exponents of N_opt and D_opt against FLOPs, and tokens per parameter at the
    optimum: geometric mean, and at the first and last budget.

    IsoFLOP: a straight line through the budgets' optima in logarithms, with the interval of its
    slope (Student, three degrees of freedom). Law: N_opt grows with exponent beta / (alpha + beta)
    at a constant number of FLOPs per parameter and token."""
    found: list[dict[str, Any]] = []
    for family, at in optima().groupby("family", sort=False):
        record: dict[str, Any] = {"family": family}
        for name in ("params", "tokens"):
            line, covariance = np.polyfit(np.log(at["budget_flops"]), np.log(at[name]), 1, cov=True)
            half = 2.353 * float(np.sqrt(covariance[0, 0]))
            record |= {
                f"{name}_exponent": line[0],
                f"{name}_exponent_low": line[0] - half,
                f"{name}_exponent_high": line[0] + half,
            }
        exponent = [
            fit.beta / (fit.alpha + fit.beta)
            for fit in (law(str(family))[0], resampled_laws(str(family)))
        ]
        record |= {
            "law_params_exponent": float(exponent[0][0]),
            **_interval("law_params_exponent", exponent[1]),
        }
        for name in ("tokens_per_param", "law_tokens_per_param"):
            ends = {
                f"{name}_first": float(at[name].iloc[0]),
                f"{name}_last": float(at[name].iloc[-1]),
            }
            record |= {name: float(np.exp(np.log(at[name]).mean())), **ends}
        found.append(record)
    return pd.DataFrame(found)
