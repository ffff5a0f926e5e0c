"""What the paper's own numbers say about the quality of a design: scaling laws, effects of single choices, and an estimate.

NLL is the DCLM validation loss in nats per token, accuracy the mean of five few-shot tasks in percent; parameters are non-embedding,
and active where there are experts. Every interval holds 90 %.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core import baselines, presets
from hybrid_core.costs.model import model_costs
from hybrid_core.spec import AttentionMixer, ArchSpec, IntraMixer, Layer, Mamba2Mixer, MoE, SwaMixer, SwiGLU

Array = np.ndarray[Any, np.dtype[np.float64]]

CONVENTION = "estimated from the paper's rows"
COVERAGE = 0.9
PAPER_TOKENS = 60e9  # the data budget of Tables 9 and 10
PAPER_CONTEXT = 8192
TAILS = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]


class Mixture(NamedTuple):
    """How a stack mixes its kinds of layer: the paper's name for the family, depth, and the 1-based indices of the expensive blocks."""

    family: str
    n_layers: int
    expensive: tuple[int, ...]

    @property
    def share(self) -> float:
        """Expensive blocks over all layers, 0 to 1."""
        return len(self.expensive) / self.n_layers

    @property
    def first(self) -> bool:
        """Whether layer 1 is expensive and others are not."""
        return self.share < 1 and 1 in self.expensive

    @property
    def last(self) -> bool:
        """Whether the last layer is expensive and others are not."""
        return self.share < 1 and self.n_layers in self.expensive

    @property
    def cluster(self) -> bool:
        """Whether there are several expensive blocks, all next to one another, and others."""
        return 1 < len(self.expensive) == self.expensive[-1] - self.expensive[0] + 1 < self.n_layers

    @property
    def centre(self) -> float:
        """Mean depth of the expensive blocks; 0 is before the first layer, 0.5 the middle, 1 behind the last. 0.5 if there are none."""
        return float(np.mean(self.expensive)) / (self.n_layers + 1) if self.expensive else 0.5


# Letters of a stack -> (the paper's family, its expensive letter). `window`: no global attention at all.
_FAMILIES = {"A": ("llama", "A"), "M": ("mamba", "A"), "AM": ("inter", "A"), "H": ("intra", "H"), "HM": ("intra", "H")}
_FAMILIES |= {"AS": ("swa", "A"), "S": ("window", "A")}


def mixture(pattern: str) -> Mixture | None:
    """The mixture of a pattern of letters, or None where the paper trained no such stack."""
    family, letter = _FAMILIES.get("".join(sorted(set(pattern))), ("", ""))
    expensive = tuple(i for i, kind in enumerate(pattern, start=1) if kind == letter)
    return Mixture(family, len(pattern), expensive) if family else None


# ---------------------------------------------------------------- scaling laws (Tables 14 and 15)

SCALED = ("llama", "mamba", "inter", "intra")
TOKENS_PER_STEP = 2**19  # "0.5M tokens" per step
EXPONENTS = np.arange(0.025, 1.2001, 0.025)
HUBER = 0.01  # nats per token: several times the rounding of a loss, so that only outliers lose weight
DRAWS = 200


@cache
def scaling_rows() -> pd.DataFrame:
    """Tables 14 and 15 with `params` (exact) and `tokens` of every run.

    Tokens are printed to a billion and steps to a thousand: 25 % apart for the shortest runs. But budget over tokens is one number per
    model, known to 1.4 % or better from its longest run; tokens = budget / that number, and all printed steps agree with it.
    """
    frame = baselines.table("table14_15_scaling").copy()
    for _, runs in frame.groupby(["model", "scale"]):
        longest = runs.loc[runs["steps_k"].idxmax()]
        flops_per_token = longest["train_flops"] / (longest["steps_k"] * 1000 * TOKENS_PER_STEP)
        frame.loc[runs.index, "tokens"] = runs["train_flops"] / flops_per_token
        frame.loc[runs.index, "params"] = _active(_preset(longest["model"], longest["scale"]))
    return frame


def _preset(model: str, scale: str) -> ArchSpec:
    ratio = "-1to5" if model in ("swa", "inter", "intra") else ""
    return presets.get(f"{model}{ratio}-{scale.lower()}").spec


def _active(spec: ArchSpec) -> int:
    params = model_costs(spec).params()
    return params.active - params.embedding


class ScalingLaw(NamedTuple):
    """NLL = irreducible + a / (params / 1e9)^alpha + b / (tokens / 1e9)^beta (Hoffmann et al., arXiv 2203.15556). One entry per fit."""

    irreducible: Array
    a: Array
    b: Array
    alpha: Array
    beta: Array

    def loss(self, params: Array | float, tokens: Array | float) -> Array:
        """NLL, fits x points."""
        e, a, b, alpha, beta = (np.atleast_1d(part)[:, None] for part in self)
        return np.asarray(e + a * (np.atleast_1d(params) / 1e9) ** -alpha + b * (np.atleast_1d(tokens) / 1e9) ** -beta)

    def optimal_params(self, flops: Array, flops_per_pair: Array) -> Array:
        """Parameters with the lowest NLL, fits x budgets; `flops_per_pair`: training FLOPs / (params * tokens), 6 plus the mixers'."""
        _, a, b, alpha, beta = (part[:, None] for part in self)
        pairs = flops / flops_per_pair / 1e18
        return np.asarray(1e9 * (alpha * a / (beta * b) * pairs**beta) ** (1 / (alpha + beta)))


def fit_law(params: Array, tokens: Array, loss: Array, weights: Array, rounds: int = 8) -> tuple[ScalingLaw, Array]:
    """Huber regression of the law, one fit per line of `weights` (fits x rows); also the weights that it left each row (0 to 1).

    Hoffmann et al. put Huber's loss on log NLL; here it is on NLL, and solved by reweighted least squares.
    """
    robust = np.ones_like(weights)
    for _ in range(rounds):
        fitted = _least_squares(params, tokens, loss, weights * robust)
        robust = np.minimum(1, HUBER / np.maximum(abs(loss - fitted.loss(params, tokens)), 1e-12))
    return fitted, robust


def _least_squares(params: Array, tokens: Array, loss: Array, weights: Array) -> ScalingLaw:
    """Every pair of EXPONENTS, with the regression on u = params^-alpha and v = tokens^-beta in closed form; the best pair per fit."""
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
    explained = np.where((determinant > 1e-9 * uu * vv) & (a > 0) & (b > 0), a * uy + b * vy, -np.inf)
    fits, best = np.arange(len(w)), explained.reshape(len(w), -1).argmax(axis=1)
    i, j = best // len(EXPONENTS), best % len(EXPONENTS)
    a, b = a[fits, i, j], b[fits, i, j]
    return ScalingLaw(mean_y - a * mean_u[fits, i] - b * mean_v[fits, j], a, b, EXPONENTS[i], EXPONENTS[j])


def _runs(family: str) -> tuple[Array, Array, Array]:
    """Parameters, tokens and NLL of a family's runs."""
    rows = scaling_rows().query("model == @family")
    return rows["params"].to_numpy(), rows["tokens"].to_numpy(), rows["nll_dclm"].to_numpy()


@cache
def law(family: str) -> tuple[ScalingLaw, Array]:
    """The law of one of SCALED, and the weight that Huber's loss left each of its rows."""
    params, tokens, loss = _runs(family)
    found, weights = fit_law(params, tokens, loss, np.ones((1, len(loss))))
    return found, weights[0]


@cache
def resampled_laws(family: str) -> ScalingLaw:
    """The law fitted to `DRAWS` resamples of the family's rows, drawn with replacement from a fixed seed."""
    params, tokens, loss = _runs(family)
    drawn = np.random.default_rng(0).multinomial(len(loss), np.full(len(loss), 1 / len(loss)), DRAWS)
    return fit_law(params, tokens, loss, drawn.astype(float))[0]


def laws() -> pd.DataFrame:
    """The constants of each family's law with intervals from resampling the rows, and how far printed losses lie from it."""
    found = []
    for family in SCALED:
        params, tokens, loss = _runs(family)
        error = abs(law(family)[0].loss(params, tokens)[0] - loss)
        record: dict[str, Any] = {"family": family, "rows": len(loss), "mean_error": error.mean(), "largest_error": error.max()}
        for name, value, drawn in zip(ScalingLaw._fields, law(family)[0], resampled_laws(family), strict=True):
            record |= {name: float(value[0]), **_interval(name, drawn)}
        found.append(record)
    return pd.DataFrame(found)


def _interval(name: str, drawn: Array) -> dict[str, float]:
    return {f"{name}_{end}": float(value) for end, value in zip(("low", "high"), np.quantile(drawn, TAILS), strict=True)}


def optima() -> pd.DataFrame:
    """The best size at each budget: by the paper's quadratic in log N (IsoFLOP), and by the law with an interval.

    Rows of one budget weigh what Huber's loss left them in the law: the quadratic has four points at most and cannot tell an outlier.
    """
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
            by_law, drawn = (one.optimal_params(np.array([flops]), pairs)[:, 0] for one in (law(family)[0], resampled_laws(family)))
            record = {"family": family, "budget_flops": flops, "runs": len(runs), "params": n, "tokens": d, "tokens_per_param": d / n}
            record |= {"law_params": float(by_law[0]), "law_tokens_per_param": flops / pairs[0] / float(by_law[0]) ** 2}
            found.append(record | _interval("law_tokens_per_param", flops / pairs[0] / drawn**2))
    return pd.DataFrame(found)


def slopes() -> pd.DataFrame:
    """Per family, the exponents of N_opt and D_opt against FLOPs, and tokens per parameter at the optimum: geometric mean, and at the
    first and last budget.

    IsoFLOP: a straight line through the budgets' optima in logarithms, with the interval of its slope (Student, three degrees of freedom).
    Law: N_opt grows with exponent beta / (alpha + beta) at a constant number of FLOPs per parameter and token.
    """
    found: list[dict[str, Any]] = []
    for family, at in optima().groupby("family", sort=False):
        record: dict[str, Any] = {"family": family}
        for name in ("params", "tokens"):
            line, covariance = np.polyfit(np.log(at["budget_flops"]), np.log(at[name]), 1, cov=True)
            half = 2.353 * float(np.sqrt(covariance[0, 0]))
            record |= {f"{name}_exponent": line[0], f"{name}_exponent_low": line[0] - half, f"{name}_exponent_high": line[0] + half}
        exponent = [fit.beta / (fit.alpha + fit.beta) for fit in (law(str(family))[0], resampled_laws(str(family)))]
        record |= {"law_params_exponent": float(exponent[0][0]), **_interval("law_params_exponent", exponent[1])}
        for name in ("tokens_per_param", "law_tokens_per_param"):
            ends = {f"{name}_first": float(at[name].iloc[0]), f"{name}_last": float(at[name].iloc[-1])}
            record |= {name: float(np.exp(np.log(at[name]).mean())), **ends}
        found.append(record)
    return pd.DataFrame(found)


# ---------------------------------------------------------------- effects of single choices

RATIOS = {"1:0": 1.0, "1:1": 1 / 2, "1:3": 1 / 4, "1:5": 1 / 6, "1:12": 1 / 13, "0:1": 0.0}
AXES = {"norm": "group", "scalar": "none", "fusion": "diff", "value": "sep", "out": "sep"}  # the paper's choice
# Table 9 prints the intra 1:3 row of the flops budget as 10 + 2, with the figures of 10 + 3.
_MISPRINTED = {(0, 0, 10, 2): (0, 0, 10, 3)}


def _against(name: str, axis: str, base: str | float, same: list[str], rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of a table whose `axis` is `changed` from `base` and which agree in `same`: NLL and accuracy of both, and the differences."""
    frame = baselines.table(name) if rows is None else rows
    frame = frame[[*same, axis, "nll_dclm", "avg"]]
    frame = frame.rename(columns={axis: "changed"})
    other = frame[frame["changed"] == base].rename(columns={"changed": "base"})
    pairs = frame[frame["changed"] != base].merge(other, on=same, suffixes=("", "_base"))
    changes = {"nll_change": (pairs["nll_dclm"] - pairs["nll_dclm_base"]).round(3), "avg_change": (pairs["avg"] - pairs["avg_base"]).round(1)}
    return pairs.assign(**changes, axis=axis, table=baselines.TABLES[name][0])


def ratio_effects() -> pd.DataFrame:
    """Every ratio against 1:5 of the same family, scale and budget (Tables 9 and 10)."""
    return pd.concat(
        [_against(name, "ratio", "1:5", ["model", "scale", "budget"], _with_ratio(name)) for name in ("table09_1b", "table10_350m")],
        ignore_index=True,
    )


def _with_ratio(name: str) -> pd.DataFrame:
    frame = baselines.table(name)
    kinds = [_MISPRINTED.get(key, key) for key in map(tuple, frame[baselines.COUNTS].to_numpy())]
    shares = [(attn + hyb) / (attn + swa + ssm + hyb) for attn, swa, ssm, hyb in kinds]
    return frame.assign(ratio=[min(RATIOS, key=lambda ratio: abs(RATIOS[ratio] - share)) for share in shares])


def placement_effects() -> pd.DataFrame:
    """Placements against the middle; at 1:1 against the end, for a single attention layer against the middle one (Tables 11, 17, 21).

    At 350M the single middle layer of Table 17 repeats an intra row, so layer 8 stands in for it.
    """
    swa, inter = (baselines.table(name) for name in ("table11_swa_position", "table17_inter_position"))
    parts = [_against("table11_swa_position", "pattern", "middle", ["ratio"])]
    parts += [_against("table11_swa_position", "pattern", "end", ["ratio"], swa.query("ratio == '1:1'"))]
    parts += [_against("table17_inter_position", "pattern", "middle", ["scale", "ratio"])]
    parts += [_against("table17_inter_position", "pattern", "end", ["scale", "ratio"], inter.query("ratio == '1:1'"))]
    for scale, middle in (("1B", "7"), ("350M", "8")):
        single = inter.query("ratio == '1:12' and scale == @scale and not (scale == '350M' and attn_indices == '6')")
        parts += [_against("table17_inter_position", "attn_indices", middle, ["scale", "ratio"], single)]
    parts += [_against("table21_intra_position", "pattern", "scatter", ["scale", "ratio"])]
    return pd.concat(parts, ignore_index=True)


def intra_effects() -> pd.DataFrame:
    """Each axis of the intra-hybrid block against the paper's choice, all other axes equal (Tables 18 and 19)."""
    blocks = baselines.table("table18_19_intra_variants").query("module == 'T/M'")
    parts = []
    for axis, base in AXES.items():
        same = ["scale", *(other for other in AXES if other != axis)]
        parts.append(_against("table18_19_intra_variants", axis, base, same, blocks))
    return pd.concat(parts, ignore_index=True)


def dimension_effects() -> pd.DataFrame:
    """Widths of the two branches against equal ones (Table 20)."""
    rows = baselines.table("table20_dim_ratio").query("n_hyb > 0")
    rows = rows.assign(widths=rows["dim_transformer"].astype(str) + "/" + rows["dim_mamba"].astype(str))
    equal = {"1B": "1152/1152", "350M": "896/896"}
    parts = [_against("table20_dim_ratio", "widths", base, ["scale"], rows.query("scale == @scale")) for scale, base in equal.items()]
    return pd.concat(parts, ignore_index=True)


def moe_effects() -> pd.DataFrame:
    """One shared and eight routed experts against the dense model of the same active parameters (Table 4)."""
    rows = baselines.table("table04_moe")
    return _against("table04_moe", "experts", "dense", ["model", "scale"], rows.assign(experts=rows["experts"].fillna("dense")))


def long_context_effects() -> pd.DataFrame:
    """Each family against Llama, trained at 16K and at 32K (Table 12; Llama's rows cost more than the printed budget)."""
    return _against("table12_long_context", "model", "llama", ["scale", "context_len"])


def effects() -> dict[str, pd.DataFrame]:
    """Every effect by what was varied."""
    found = {"ratio": ratio_effects, "placement": placement_effects, "intra": intra_effects}
    found |= {"dimensions": dimension_effects, "moe": moe_effects, "long_context": long_context_effects}
    return {name: function() for name, function in found.items()}


# ---------------------------------------------------------------- the estimate

_POSITIONS = {
    "table11_swa_position": ("attn_indices", "A", "S"),
    "table17_inter_position": ("attn_indices", "A", "M"),
    "table21_intra_position": ("intra_indices", "H", "M"),
}


def indices(printed: str, n_layers: int) -> tuple[int, ...]:
    """`4,7,11`, or an open list such as `1,3..15`; what a list names beyond the last layer is no layer (Table 17, 1:1)."""
    head, _, last = printed.partition("..")
    found = [int(number) for number in head.split(",")]
    if last:
        step = found[1] - found[0] if len(found) > 1 else 1
        found = list(range(found[0], int(last) + 1, step))
    return tuple(i for i in found if i <= n_layers)


@cache
def design_rows() -> pd.DataFrame:
    """The trained designs that the estimate rests on, each once: Tables 4, 9, 10, 11, 17 and 21, with their pattern of layers.

    Left out: windows alone (one row), and Table 17's 350M row {6}, which repeats an intra row. Table 4 is at 60B tokens, as its dense
    rows show.
    """
    rows = [*_printed_by_counts(), *_printed_by_position()]
    frame = pd.DataFrame(rows, columns=["family", "scale", "pattern", "experts", "tokens", "nll", "table"])
    frame = frame.drop_duplicates(["scale", "pattern", "experts", "tokens"])
    return frame[frame["family"] != "window"].reset_index(drop=True)


Row = tuple[str, str, str, bool, float, float, str]


def _printed_by_counts() -> Iterator[Row]:
    """Rows printed with how many layers of each kind; the pattern is that of the preset made from the row."""
    patterns = {(baselines.scale(spec), baselines.counts(spec)): spec.pattern for spec in _paper_designs()}
    for name in ("table09_1b", "table10_350m", "table04_moe"):
        for row in baselines.table(name).to_dict("records"):
            counts = tuple(int(row.get(column, 0)) for column in baselines.COUNTS)
            pattern = patterns[row["scale"], _MISPRINTED.get(counts, counts)]
            experts, tokens = isinstance(row.get("experts"), str), row.get("tokens_b", PAPER_TOKENS / 1e9) * 1e9
            mixed = mixture(pattern)
            assert mixed
            yield mixed.family, row["scale"], pattern, experts, tokens, row["nll_dclm"], baselines.TABLES[name][0]


def _printed_by_position() -> Iterator[Row]:
    """Rows printed with the indices of their expensive blocks."""
    for name, (column, expensive, cheap) in _POSITIONS.items():
        for row in baselines.table(name).to_dict("records"):
            repeated = name == "table17_inter_position" and row["scale"] == "350M" and row[column] == "6"
            if repeated or row.get("ratio") in ("1:0", "0:1"):
                continue
            n_layers = sum(int(row.get(count, 0)) for count in baselines.COUNTS)
            chosen = indices(row[column], n_layers)
            pattern = "".join(expensive if i in chosen else cheap for i in range(1, n_layers + 1))
            mixed = mixture(pattern)
            assert mixed
            yield mixed.family, row.get("scale", "1B"), pattern, False, PAPER_TOKENS, row["nll_dclm"], baselines.TABLES[name][0]


TERMS = ["llama", "mamba", "swa", "inter", "intra", "350M", "tokens, 1B", "tokens, 350M", "share doubled", "first layer", "early", "experts"]


def _terms(pattern: str, scale: str, tokens: float, experts: bool) -> Array:
    """What the additive model of NLL multiplies its coefficients with, in the order of TERMS.

    Family and scale are 0 or 1; tokens: ln(tokens / 60B). For blocks among Mamba layers, share doubled: log2 of their share; first layer:
    the share of Mamba layers if layer 1 is not one of them; early: (1/2 - mean depth)^2 in the first half. Windows showed no such effects
    (Tables 9 and 11).
    """
    mixed = mixture(pattern)
    assert mixed
    families = [float(mixed.family == name) for name in TERMS[:5]]
    more = np.log(tokens / PAPER_TOKENS)
    placed = [0.0, 0.0, 0.0]
    if mixed.family in ("inter", "intra"):
        placed = [np.log2(mixed.share), mixed.first * (1 - mixed.share), max(0.0, 0.5 - mixed.centre) ** 2]
    return np.array([*families, scale == "350M", more * (scale == "1B"), more * (scale == "350M"), *placed, experts], dtype=float)


def _design_matrix(rows: pd.DataFrame) -> Array:
    columns = rows[["pattern", "scale", "tokens", "experts"]]
    return np.array([_terms(*row) for row in columns.itertuples(index=False, name=None)])


@cache
def coefficients() -> dict[str, float]:
    """The additive model of NLL, least squares over `design_rows`: nats per token by term (see `_terms`)."""
    rows = design_rows()
    found = np.linalg.lstsq(_design_matrix(rows), rows["nll"].to_numpy(), rcond=None)[0]
    return dict(zip(TERMS, map(float, found), strict=True))


class Estimate(NamedTuple):
    """NLL with a 90 % interval from leave-one-out errors. `basis` says which tables it rests on."""

    nll: float
    low: float
    high: float
    tokens: float
    basis: str


class OutOfRange(NamedTuple):
    """Why the paper says nothing about a design: one line."""

    reason: str


def estimate(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> Estimate | OutOfRange:
    """NLL of a design trained at 8K on `tokens` of DCLM, from the paper's rows.

    Inside 350M and 1B and 60B to 82B tokens: the additive model of `coefficients`. Elsewhere the law of the family (Llama's for windows)
    moves it there; only the law's differences are used, since its runs had smaller batches and lie up to 0.04 below Tables 9 and 10.
    """
    mixed = mixture(spec.pattern)
    if mixed is None or mixed.family == "window":
        return OutOfRange(f"layers: {spec.pattern} - {_NO_FAMILY}")
    if reason := _uncovered(spec, mixed.family, tokens):
        return OutOfRange(reason)
    params, experts = float(_active(spec)), isinstance(spec.stack[0].ffn, MoE)
    anchors = {scale: _moved(spec.pattern, mixed.family, experts, scale, params, tokens) for scale in ("350M", "1B")}
    small, large = (_extent(scale) for scale in anchors)
    weight = float(np.clip(np.log(params / small.params[1]) / np.log(large.params[0] / small.params[1]), 0, 1))
    nll = (1 - weight) * anchors["350M"][0] + weight * anchors["1B"][0]
    moved = weight not in (0.0, 1.0) or anchors["1B" if weight else "350M"][1]
    half = _largest_error("designs") + (_largest_error("runs") if moved else 0.0)
    basis = "Tables 4, 9, 10, 11, 17 and 21" + (", moved by the scaling law of Tables 14 and 15" if moved else "")
    return Estimate(nll, nll - half, nll + half, tokens, basis)


_NO_FAMILY = (
    "the paper trained attention, Mamba-2, attention or intra-hybrid blocks among Mamba-2, and attention among windows "
    "(windows alone: one row of Table 9)"
)


def _moved(pattern: str, family: str, experts: bool, scale: str, params: float, tokens: float) -> tuple[float, bool]:
    """The additive model at one scale, moved from the nearest size and tokens of its rows to the wanted ones; and whether it had to be."""
    extent = _extent(scale)
    near_params, near_tokens = np.clip(params, *extent.params), np.clip(tokens, *extent.tokens)
    nll = float(_terms(pattern, scale, float(near_tokens), experts) @ np.array(list(coefficients().values())))
    curve = law("llama" if family == "swa" else family)[0]
    step = curve.loss(params, tokens) - curve.loss(near_params, near_tokens)
    return nll + float(step[0, 0]), bool(near_params != params or near_tokens != tokens)


class Extent(NamedTuple):
    """Least and largest parameters and tokens among the rows of a scale."""

    params: tuple[float, float]
    tokens: tuple[float, float]


@cache
def _extent(scale: str) -> Extent:
    sizes = [_active(spec) for spec in _paper_designs() if baselines.scale(spec) == scale]
    tokens = design_rows().query("scale == @scale")["tokens"]
    return Extent((min(sizes), max(sizes)), (tokens.min(), tokens.max()))


# ---------------------------------------------------------------- what the paper covers


@cache
def _paper_designs() -> tuple[ArchSpec, ...]:
    """The paper's presets with its final choice of intra-hybrid block; the others stand in Tables 18 to 20, which have no ratios."""
    found = (presets.get(name) for name in presets.names())
    final = presets.get("intra-1to5-1b").spec
    choice = {trait for layer in set(final.stack) for trait in _layer_traits(layer, final.d_model) if trait[0] in _AXES}
    paper = [preset.spec for preset in found if "2510.04800" in preset.source]
    return tuple(spec for spec in paper if {trait for trait in _traits(spec) if trait[0] in _AXES} <= choice)


_AXES = {f"intra.{axis}" for axis in AXES}
SLACK = 1.1  # how far beyond the paper's own span a number may lie


@cache
def _known(family: str, ffn: type) -> dict[str, set[Any]]:
    """The traits of the paper's designs of a family and a kind of feed-forward: key -> values."""
    known: dict[str, set[Any]] = {}
    for spec in _paper_designs():
        mixed = mixture(spec.pattern)
        if mixed and mixed.family == family and type(spec.stack[0].ffn) is ffn:
            for key, value in _traits(spec):
                known.setdefault(key, set()).add(value)
    return known


def _uncovered(spec: ArchSpec, family: str, tokens: float) -> str | None:
    """The first trait of a design that no design of the paper with the same family and feed-forward has, or None."""
    known = _known(family, type(spec.stack[0].ffn))
    if not known:
        return f"ffn: {spec.ffn and spec.ffn.kind} - the paper has no {family} designs with it"
    for key, value in sorted(_traits(spec), key=str):
        seen = known.get(key, set())
        if isinstance(value, float) and seen:
            if not min(seen) / SLACK <= value <= max(seen) * SLACK:
                return f"{key}: {value:,.3g} - the paper's {family} designs have {min(seen):,.3g} to {max(seen):,.3g}"
        elif value not in seen:
            alone = "; others only in stacks of nothing else (Tables 18 and 19)" if key in _AXES else ""
            return f"{key}: {value} - the paper's {family} designs have {' or '.join(sorted(map(str, seen))) or 'none'}{alone}"
    return _untrained(spec, tokens)


def _untrained(spec: ArchSpec, tokens: float) -> str | None:
    """Whether so much training lies outside Tables 9 to 15."""
    flops, rows = tokens * float(model_costs(spec).train_flops_per_token(PAPER_CONTEXT, "paper")), scaling_rows()
    limits = {
        "tokens": (tokens, rows["tokens"].min(), rows["tokens"].max()),
        "training FLOPs": (flops, rows["train_flops"].min(), baselines.table("table09_1b")["train_flops"].max()),
    }
    for what, (value, least, most) in limits.items():
        if not least / SLACK <= value <= most * SLACK:
            return f"{what}: {value:.2g} for {_active(spec):.2g} parameters and {tokens:.2g} tokens - the paper's runs have {least:.2g} to {most:.2g}"
    return None


def _traits(spec: ArchSpec) -> set[tuple[str, Any]]:
    """What of a design bears on its loss: a float may lie between the paper's, anything else must be one of them."""
    mixed = mixture(spec.pattern)
    found: set[tuple[str, Any]] = {("vocab_size", spec.vocab_size), ("d_model", float(spec.d_model)), ("parameters", float(_active(spec)))}
    if mixed:
        found.add(("share of expensive blocks", float(mixed.share)))
    for layer in set(spec.stack):
        found |= _layer_traits(layer, spec.d_model)
    return found


def _layer_traits(layer: Layer, d_model: int) -> set[tuple[str, Any]]:
    mixer, ffn = layer.mixer, layer.ffn
    found: set[tuple[str, Any]] = set()
    if isinstance(mixer, SwaMixer):
        found |= {("swa.window", mixer.window), ("swa.sink", mixer.sink)}
    if isinstance(mixer, AttentionMixer):
        found |= {("attention.position", mixer.position), ("attention width / d_model", mixer.n_heads * mixer.v_head_dim / d_model)}
    elif isinstance(mixer, Mamba2Mixer):
        found |= {("ssm.d_ssm / d_model", mixer.d_ssm / d_model), ("ssm.d_state", float(mixer.d_state))}
    elif isinstance(mixer, IntraMixer):
        found |= {(f"intra.{axis}", getattr(mixer, axis)) for axis in AXES}
        found |= {("attention.position", mixer.attention.position), ("intra.d_ssm / d_model", mixer.ssm.d_ssm / d_model)}
        found |= {("intra query width / d_model", mixer.attention.n_heads * mixer.attention.head_dim / d_model)}
    else:
        found |= {("mixer", type(mixer).__name__)}
    if isinstance(ffn, SwiGLU):
        found |= {("ffn.d_ff / d_model", ffn.d_ff / d_model)}
    elif isinstance(ffn, MoE):
        found |= {("experts", f"{ffn.n_shared} shared, {ffn.top_k} of {ffn.n_routed}"), ("ffn.d_expert / d_model", ffn.d_expert / d_model)}
    else:
        found |= {("ffn", "none")}
    return found


# ---------------------------------------------------------------- how good the estimate is


@cache
def leave_one_out() -> pd.DataFrame:
    """Every row used, predicted without it, beside a baseline: the mean of the other rows of its family, scale and kind of budget.

    `designs`: the additive model without all rows of that design (its other budget would tell). `runs`: the scaling laws without that row.
    """
    return pd.concat([_without_design(design_rows()), _without_run(scaling_rows())], ignore_index=True)


def _without_design(rows: pd.DataFrame) -> pd.DataFrame:
    terms, nll = _design_matrix(rows), rows["nll"].to_numpy()
    design = rows["scale"] + rows["pattern"] + rows["experts"].astype(str)
    predicted = np.full(len(rows), np.nan)
    for name in design.unique():
        out = (design == name).to_numpy()
        predicted[out] = terms[out] @ np.linalg.lstsq(terms[~out], nll[~out], rcond=None)[0]
    budget = (rows["tokens"] > PAPER_TOKENS).astype(str) + rows["experts"].astype(str)
    return _errors(rows.assign(kind="designs"), predicted, [rows["family"], rows["scale"], budget])


def _without_run(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.rename(columns={"model": "family", "nll_dclm": "nll"}).assign(kind="runs", table=baselines.TABLES["table14_15_scaling"][0])
    predicted = pd.Series(np.nan, index=rows.index)
    for _, runs in rows.groupby("family"):
        data = runs["params"].to_numpy(), runs["tokens"].to_numpy(), runs["nll"].to_numpy()
        without, _ = fit_law(*data, 1 - np.eye(len(runs)))
        predicted[runs.index] = np.diagonal(without.loss(data[0], data[1]))
    return _errors(rows, predicted.to_numpy(), [rows["family"], rows["scale"]])


def _errors(rows: pd.DataFrame, predicted: Array, group: list[pd.Series]) -> pd.DataFrame:
    """Prediction and baseline of each row with their errors, printed minus predicted; a row alone in its group has no baseline."""
    others = rows.groupby(group)["nll"]
    baseline = (others.transform("sum") - rows["nll"]) / (others.transform("size") - 1).replace(0, np.nan)
    kept = rows.reindex(columns=["kind", "table", "family", "scale", "pattern", "experts", "tokens", "nll"])
    return kept.assign(predicted=predicted, error=rows["nll"] - predicted, baseline=baseline, baseline_error=rows["nll"] - baseline)


@cache
def accuracy() -> pd.DataFrame:
    """Mean absolute leave-one-out error by kind of row, over the rows that have a baseline and over all; and the 90 % quantile."""
    found: list[dict[str, Any]] = []
    for kind, rows in leave_one_out().groupby("kind"):
        error, beside = rows["error"].abs(), rows.dropna(subset="baseline")
        record = {"kind": kind, "rows": len(rows), "mean_error": error.mean(), "quantile_90": error.quantile(COVERAGE), "largest": error.max()}
        record |= {"rows_with_baseline": len(beside), "mean_error_there": beside["error"].abs().mean()}
        found.append(record | {"baseline_mean_error": beside["baseline_error"].abs().mean()})
    return pd.DataFrame(found)


def _largest_error(kind: str) -> float:
    """The leave-one-out error that 90 % of the rows of a kind stay below."""
    return float(accuracy().set_index("kind").loc[kind, "quantile_90"])


def record(spec: ArchSpec, tokens: float = PAPER_TOKENS) -> dict[str, Any]:
    """What `cost --quality` adds: the nearest printed rows, and the estimate with its convention or the reason why there is none."""
    found = estimate(spec, tokens)
    columns = ["model", "scale", *baselines.COUNTS, "nll_dclm", "nll_pg19", "avg", "distance", "table"]
    return {
        "nearest": _records(baselines.nearest(spec, 3)[columns]),
        "estimate": found._asdict() | {"coverage": COVERAGE, "convention": CONVENTION} if isinstance(found, Estimate) else None,
        "outside_the_papers_range": found.reason if isinstance(found, OutOfRange) else None,
    }


def report() -> dict[str, Any]:
    """What `quality` prints, JSON-ready: laws, optima and their slopes, the additive model, effects, and every leave-one-out error."""
    frames = {"laws": laws(), "optima": optima(), "slopes": slopes(), "accuracy": accuracy(), "leave_one_out": leave_one_out()}
    found: dict[str, Any] = {name: _records(frame) for name, frame in frames.items()}
    return found | {"coefficients": coefficients(), "effects": {name: _records(frame) for name, frame in effects().items()}}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a row, with None for what is missing."""
    return [{str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")]
