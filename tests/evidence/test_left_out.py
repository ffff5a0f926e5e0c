"""How far a design is from the rows, by hand, and what the paper covers."""

import numpy as np
import pytest

from hybrid_core.design import presets
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality import additive, designs_left_out, runs_left_out, scaling
from hybrid_core.evidence.quality.paper_range import paper_designs, uncovered
from hybrid_core.evidence.quality.placed import nearest_ratio
from hybrid_core.evidence.quality.quoted import printed_accuracy, trained_otherwise


def test_the_distance_of_a_design_is_what_its_family_has_among_the_training_rows() -> None:
    everything = designs_left_out.all_designs()
    distance = designs_left_out.design_distance
    assert distance("inter", "1B", False, everything) == designs_left_out.OTHER_DESIGNS
    assert distance("inter", "1B", True, everything) == designs_left_out.NO_EXPERTS
    rows = additive.design_rows()
    small = (rows["scale"] == "350M").to_numpy()
    assert distance("inter", "1B", False, small) == designs_left_out.OTHER_SCALE
    others = (rows["family"] != "inter").to_numpy()
    assert distance("inter", "1B", False, others) is None


def test_a_group_that_is_left_out_is_predicted_once_a_row() -> None:
    labels = designs_left_out.labels()
    misses = list(designs_left_out.design_misses(designs_left_out.all_designs(), labels.cell))
    assert sorted(miss.row for miss in misses) == list(range(len(labels.cell)))
    for miss in misses:
        assert labels.cell[miss.row] == miss.group


def test_folds_leave_out_five_budgets_four_families_at_four_sizes_and_three_families() -> None:
    """Tables 14 and 15: 2e19 to 4e20 FLOPs; Llama, Mamba, inter and intra at 100M to 3B."""
    names = [fold.name for fold in runs_left_out.budget_folds()]
    assert names == ["2e+19", "4e+19", "8e+19", "2e+20", "4e+20"]
    assert len(runs_left_out.size_folds()) == 4 * 4
    assert [fold.name for fold in runs_left_out.family_folds()] == ["mamba", "inter", "intra"]
    for folds in (runs_left_out.budget_folds(), runs_left_out.size_folds()):
        left_out = sorted(i for fold in folds for i in fold.runs)
        assert left_out == list(range(len(scaling.scaling_rows())))


def test_a_law_without_no_run_is_the_law_of_its_family() -> None:
    found = runs_left_out.law_without("mamba", frozenset())
    for own, other in zip(found, scaling.law("mamba")[0], strict=True):
        assert np.array_equal(own, other)


def test_a_run_of_a_size_is_one_within_a_factor_of_one_and_a_half() -> None:
    sizes, _, losses = scaling.runs_of("llama")
    assert len(sizes) == len(losses)
    assert scaling.has_run_of_size("llama", sizes.max() * 1.49)
    assert not scaling.has_run_of_size("llama", sizes.max() * 1.51)


# Table 8 prints 0.97B without embedding for Llama at 1B, Table 4 the same active with experts.
@pytest.mark.parametrize("name", ["llama-1b", "llama-moe-1b"])
def test_active_parameters_without_embedding_are_the_printed_ones(name: str) -> None:
    assert round(scaling.active_params(presets.get(name).spec) / 1e9, 2) == 0.97


@pytest.mark.parametrize(
    ("share", "ratio"), [(1 / 2, "1:1"), (3 / 13, "1:3"), (2 / 13, "1:5"), (1 / 13, "1:12")]
)
def test_the_nearest_ratio_of_the_papers_stacks_is_their_own(share: float, ratio: str) -> None:
    assert nearest_ratio(share) == ratio


def test_the_paper_covers_its_own_designs_and_not_what_none_of_them_has() -> None:
    spec = presets.get("inter-1to5-1b").spec
    assert spec in paper_designs()
    assert uncovered(spec, "inter", 60e9) is None
    wide = uncovered(spec.replace(vocab_size=32000), "inter", 60e9)
    assert wide == "vocab_size: 32000 - the paper's inter designs have 128256"
    more = uncovered(spec, "inter", 1e12)
    assert more and more.startswith("tokens: 1e+12 for ")


def test_windows_with_one_global_layer_or_none_are_printed_at_equal_flops_only() -> None:
    assert {spec.name for spec in trained_otherwise("1B")} == {"swa-1to12-1b", "swa-0to1-1b"}


def test_accuracy_is_the_printed_mean_where_a_table_has_one() -> None:
    assert printed_accuracy(baselines.table("table09_1b").iloc[0]) == 52.0
    assert printed_accuracy(baselines.table("table14_15_scaling").iloc[0]) is None


def test_a_design_is_the_papers_only_at_its_dimensions() -> None:
    spec = presets.get("inter-1to5-1b").spec
    assert baselines.is_papers(spec)
    assert not baselines.is_papers(spec.replace(vocab_size=32000))
    assert not baselines.is_papers(presets.get("diff-t-1b").spec)
    assert baselines.cite("table09_1b") == "Table 9, Bae et al., arXiv 2510.04800v3"


def test_coefficients_leave_residuals_that_no_term_explains() -> None:
    """What least squares means: the residuals are orthogonal to each column of the terms."""
    found = np.array(list(additive.coefficients().values()))
    terms = additive.design_matrix()
    residuals = additive.design_rows()["nll"].to_numpy() - terms @ found
    assert np.abs(terms.T @ residuals).max() < 1e-9
    assert np.abs(residuals).max() < 0.03  # nats


def test_a_margin_holds_nine_tenths_of_the_errors_with_every_group_alike() -> None:
    everything = designs_left_out.all_designs()
    margin = designs_left_out.cached_design_margins(everything.tobytes())[
        designs_left_out.OTHER_DESIGNS
    ]
    misses = list(designs_left_out.design_misses(everything, designs_left_out.labels().design))
    errors: dict[str, list[float]] = {}
    for miss in misses:
        if miss.distance == designs_left_out.OTHER_DESIGNS:
            errors.setdefault(miss.group, []).append(abs(miss.error))

    def held(width: float) -> float:
        shares = [sum(error <= width for error in group) / len(group) for group in errors.values()]
        return sum(shares) / len(shares)

    assert held(margin) >= 0.9 > held(margin - 1e-9)


def test_the_error_of_a_run_is_its_print_less_the_moved_model() -> None:
    """Without coefficients the model predicts 0, and only the law's step to the run is left."""
    nothing = np.zeros(len(additive.TERMS))
    all_runs = runs_left_out.runs()
    i = [(run.family, run.scale) for run in all_runs].index(("mamba", "3B"))
    run = all_runs[i]
    law = runs_left_out.law_without("mamba", frozenset())
    tokens = additive.design_rows().query("scale == '1B'")["tokens"]
    near_tokens = min(max(run.tokens, tokens.min()), tokens.max())

    def loss(params: float, tokens: float) -> float:
        of_params = law.a[0] * (params / 1e9) ** -law.alpha[0]
        return float(of_params + law.b[0] * (tokens / 1e9) ** -law.beta[0])

    of_1b = [spec for spec in paper_designs() if baselines.scale(spec) == "1B"]
    largest_1b = max(map(scaling.active_params, of_1b))
    assert largest_1b < run.params
    step = loss(run.params, run.tokens) - loss(largest_1b, near_tokens)
    assert runs_left_out.run_error(i, frozenset(), nothing) == pytest.approx(run.nll - step)


@pytest.mark.parametrize(
    ("scale", "left_out", "distance"),
    [
        ("3B", "none", designs_left_out.OTHER_DESIGNS),  # the 1B rows are nearest
        ("100M", "none", designs_left_out.OTHER_DESIGNS),  # the 350M rows are
        ("3B", "1B", designs_left_out.OTHER_SCALE),
        ("100M", "350M", designs_left_out.OTHER_SCALE),
    ],
)
def test_a_run_is_as_far_as_the_nearer_of_the_two_scales(
    scale: str, left_out: str, distance: str
) -> None:
    sizes = [(run.family, run.scale) for run in runs_left_out.runs()]
    i = sizes.index(("llama", scale))
    rows = additive.design_rows()
    kept = (rows["scale"] != left_out).to_numpy()
    assert runs_left_out.run_distance(i, kept) == distance
