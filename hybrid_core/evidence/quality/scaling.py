"""Scaling laws fitted to Tables 14 and 15: NLL against parameters and tokens.

Parameters are non-embedding; for models with experts, only the active ones count.
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
SCALED = ("llama", "mamba", "inter", "intra")
# Parameters that differ by less than this factor are one scale; the paper's scales lie about three
# times apart.
SAME_SIZE = 1.5
TOKENS_PER_STEP = 2**19  # "0.5M tokens" per step
EXPONENTS = np.arange(0.025, 1.2001, 0.025)  # the grid that alpha and beta are searched on
# Nats per token: several times the rounding of a loss, so that only outliers lose weight.
HUBER = 0.01
DRAWS = 200  # resamples per interval


@cache
def scaling_rows() -> pd.DataFrame:
    """Tables 14 and 15 with `params` (exact) and `tokens` of every run.

    The tables print tokens to a billion and steps to a thousand, so for the shortest runs the two
    differ by 25 %. FLOPs per token is one number per model, and the model's longest run gives it to
    1.4 % or better. So tokens = budget / FLOPs per token of the longest run. All printed steps
    agree with that."""
    frame = baselines.table("table14_15_scaling")
    model = frame["model"]
    scale = frame["scale"]
    steps = frame["steps_k"]
    budget = frame["train_flops"]

    flops_per_token = budget / (steps * 1000 * TOKENS_PER_STEP)
    most_steps = frame.groupby([model, scale])["steps_k"].transform("max")
    of_longest = flops_per_token.where(steps == most_steps)
    tokens = budget / of_longest.groupby([model, scale]).transform("max")

    specs = map(trained_preset, model, scale)
    params = list(map(active_params, specs))
    return frame.assign(tokens=tokens, params=params)


def trained_preset(model: str, scale: str) -> ArchSpec:
    """The preset of a row of Tables 14 and 15; its hybrids are 1:5."""
    ratio = ""
    if model in ("inter", "intra"):
        ratio = "-1to5"
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
        irreducible, a, b, alpha, beta = (np.atleast_1d(part)[:, None] for part in self)
        billions_of_params = np.atleast_1d(params) / 1e9
        billions_of_tokens = np.atleast_1d(tokens) / 1e9
        of_params = a * billions_of_params**-alpha
        of_tokens = b * billions_of_tokens**-beta
        return np.asarray(irreducible + of_params + of_tokens)

    def optimal_params(self, flops: Array, flops_per_pair: Array) -> Array:
        """Parameters with the lowest NLL, fits x budgets.

        `flops_per_pair`: training FLOPs / (params * tokens), which is 6 plus the mixers' share.
        The optimum follows from d loss / d params = 0 at a fixed params * tokens = flops /
        flops_per_pair."""
        _, a, b, alpha, beta = (part[:, None] for part in self)
        params_times_tokens = flops / flops_per_pair / 1e18  # billions of each
        ratio_of_slopes = alpha * a / (beta * b)
        billions = (ratio_of_slopes * params_times_tokens**beta) ** (1 / (alpha + beta))
        return np.asarray(1e9 * billions)


def fit_law(
    params: Array,
    tokens: Array,
    loss: Array,
    weights: Array,
    rounds: int = 8,
) -> tuple[ScalingLaw, Array]:
    """Huber regression of the law, one fit per line of `weights` (fits x rows). Also returns the
    weight (0 to 1) that Huber's loss leaves each row.

    Hoffmann et al. put Huber's loss on log NLL. Here it is on NLL, and solved by iteratively
    reweighted least squares."""
    robust = np.ones_like(weights)
    for _ in range(rounds):
        fitted = _least_squares(params, tokens, loss, weights * robust)
        error = abs(loss - fitted.loss(params, tokens))
        robust = np.minimum(1, HUBER / np.maximum(error, 1e-12))
    return fitted, robust


def _least_squares(
    params: Array,
    tokens: Array,
    loss: Array,
    weights: Array,
) -> ScalingLaw:
    """The best pair of EXPONENTS for each fit.

    At fixed exponents the law is linear in u = params^-alpha and v = tokens^-beta, so every pair of
    the grid is a weighted regression on two variables in closed form (Cramer's rule)."""
    w = weights / weights.sum(axis=1, keepdims=True)
    u = (params / 1e9)[:, None] ** -EXPONENTS  # rows x exponents
    v = (tokens / 1e9)[:, None] ** -EXPONENTS
    mean_u = w @ u  # fits x exponents
    mean_v = w @ v
    mean_y = w @ loss
    of_alphas = np.s_[:, :, None]  # to fits x alphas x betas
    of_betas = np.s_[:, None, :]

    # Weighted variances and covariances.
    uu = (w @ u**2 - mean_u**2)[of_alphas]
    vv = (w @ v**2 - mean_v**2)[of_betas]
    uv = (w[:, None, :] * u.T) @ v
    uv -= mean_u[of_alphas] * mean_v[of_betas]
    uy = (w * loss) @ u - mean_u * mean_y[:, None]
    vy = (w * loss) @ v - mean_v * mean_y[:, None]
    uy = uy[of_alphas]
    vy = vy[of_betas]

    determinant = uu * vv - uv**2
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (uy * vv - vy * uv) / determinant
        b = (vy * uu - uy * uv) / determinant
    # Both slopes must be positive: more parameters or tokens never raise the loss.
    not_singular = determinant > 1e-9 * uu * vv
    sound = not_singular & (a > 0) & (b > 0)
    explained = np.where(sound, a * uy + b * vy, -np.inf)

    fits = np.arange(len(w))
    best = explained.reshape(len(w), -1).argmax(axis=1)
    i, j = np.divmod(best, len(EXPONENTS))
    a = a[fits, i, j]
    b = b[fits, i, j]
    irreducible = mean_y - a * mean_u[fits, i] - b * mean_v[fits, j]
    return ScalingLaw(irreducible, a, b, EXPONENTS[i], EXPONENTS[j])


def runs_of(family: str) -> tuple[Array, Array, Array]:
    """Parameters, tokens and NLL of a family's runs."""
    rows = scaling_rows().query("model == @family")
    return (
        rows["params"].to_numpy(),
        rows["tokens"].to_numpy(),
        rows["nll_dclm"].to_numpy(),
    )


def has_run_of_size(family: str, params: float) -> bool:
    """Whether a family has a run of such a size, within a factor of SAME_SIZE."""
    sizes, _, _ = runs_of(family)
    apart = abs(np.log(sizes / params))
    return bool((apart <= np.log(SAME_SIZE)).any())


@cache
def law(family: str) -> tuple[ScalingLaw, Array]:
    """The law of one of SCALED, and the weight that Huber's loss gave each of its rows."""
    params, tokens, loss = runs_of(family)
    all_alike = np.ones((1, len(loss)))
    found, weights = fit_law(params, tokens, loss, all_alike)
    return found, weights[0]


@cache
def resampled_laws(family: str) -> ScalingLaw:
    """The law fitted to DRAWS resamples of the family's rows, drawn with replacement from a fixed
    seed."""
    params, tokens, loss = runs_of(family)
    n_rows = len(loss)
    generator = np.random.default_rng(0)
    chances = np.full(n_rows, 1 / n_rows)
    times_drawn = generator.multinomial(n_rows, chances, DRAWS).astype(float)
    laws, _ = fit_law(params, tokens, loss, times_drawn)
    return laws
