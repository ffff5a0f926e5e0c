import itertools

import pytest

from hybrid_core.design.placement import (
    PLACEMENTS,
    Placement,
    Strategy,
    n_with_attention,
    parse_ratio,
    pattern,
    place,
)
from hybrid_core.evidence import baselines

# By hand from floor(i (n + 1) / (k + 1) + 1/2), i = 1..k, and from what the other placements do
# with it.
BY_HAND: list[tuple[Placement, int, int, tuple[int, ...]]] = [
    ("middle", 1, 13, (7,)),
    ("middle", 2, 13, (5, 9)),
    ("middle", 3, 13, (4, 7, 11)),
    ("middle", 7, 13, (2, 4, 5, 7, 9, 11, 12)),
    ("middle", 4, 16, (3, 7, 10, 14)),
    ("scatter", 4, 16, (3, 7, 10, 14)),
    ("front", 1, 13, (1,)),
    ("front", 3, 13, (1, 7, 11)),
    ("front", 4, 16, (1, 7, 10, 14)),
    ("end", 1, 13, (13,)),
    ("end", 3, 13, (4, 7, 13)),
    ("end", 4, 16, (3, 7, 10, 16)),
    ("cluster", 1, 13, (7,)),
    ("cluster", 3, 13, (6, 7, 8)),
    ("cluster", 4, 16, (7, 8, 9, 10)),
    ("sandwich", 2, 13, (1, 13)),
    ("sandwich", 3, 13, (1, 7, 13)),
    ("sandwich", 7, 13, (1, 3, 5, 7, 9, 11, 13)),
    ("sandwich", 1, 13, (1,)),
]


@pytest.mark.parametrize(
    ("placement", "k", "n", "expected"), BY_HAND, ids=lambda value: str(value).replace(" ", "")
)
def test_places_where_the_rule_says(
    placement: Placement, k: int, n: int, expected: tuple[int, ...]
) -> None:
    assert place(k, n, placement) == expected


@pytest.mark.parametrize(
    ("rule", "ratio"),
    [("scatter", "1:3"), ("scatter", "1:5"), ("sandwich", "1:3"), ("sandwich", "1:5")],
)
def test_makes_the_rows_of_table_21_that_follow_a_rule(rule: Placement, ratio: str) -> None:
    table = baselines.table("table21_intra_position")
    row = table[(table["pattern"] == rule) & (table["ratio"] == ratio)].iloc[0]
    printed = tuple(map(int, row["intra_indices"].split(",")))
    assert place(n_with_attention(13, parse_ratio(ratio)), 13, rule) == printed


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_count_of_every_depth_gets_as_many_different_layers(placement: Placement) -> None:
    for n, k in itertools.product(range(1, 21), range(21)):
        if k <= n:
            indices = place(k, n, placement)
            assert len(set(indices)) == k
            assert list(indices) == sorted(indices)
            assert set(indices) <= set(range(1, n + 1))


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^placement: 'custom' - must be one of middle, scatter, front"
    ):
        place(2, 13, "custom")


EXPENSIVE = [
    (13, "1:1", 7),  # 6.5: halves round up (Tables 9 and 21)
    (14, "1:1", 7),
    (13, "1:3", 3),
    (13, "1:5", 2),
    (16, "1:5", 3),
    (13, "1:12", 1),
    (3, "1:12", 1),  # 0.2: at least one
    (13, "1:0", 13),
    (13, "0:1", 0),
    (1, "0:1", 0),
    (1, "1:9999", 1),
    (10, "3:1", 8),
    (12, "2:4", 4),
]


@pytest.mark.parametrize(("n_layers", "ratio", "expected"), EXPENSIVE)
def test_counts_layers_with_attention(n_layers: int, ratio: str, expected: int) -> None:
    assert n_with_attention(n_layers, parse_ratio(ratio)) == expected


COLUMNS = {
    "table11_swa_position": ("n_attn", "n_swa"),
    "table17_inter_position": ("n_attn", "n_ssm"),
    "table21_intra_position": ("n_hyb", "n_ssm"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_counts_layers_with_attention_as_the_paper_prints_them(name: str) -> None:
    attention, mamba = COLUMNS[name]
    for _, row in baselines.table(name).iterrows():
        assert (
            n_with_attention(row[attention] + row[mamba], parse_ratio(row["ratio"]))
            == row[attention]
        ), row["ratio"]


MALFORMED = [
    "",
    "1",
    "1:",
    ":5",
    "1:2:3",
    "1/5",
    "a:b",
    "-1:5",
    "1.5:2",
    "1 : 5",
    "1:5\n",
    "0:0",
    "00000:1",
    "1:99999",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_refuses_a_ratio_that_is_not_two_whole_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_ratio(text)


LETTERS: dict[Strategy, str] = {
    "swa": "SASSA",
    "inter": "MAMMA",
    "intra": "MHMMH",
    "transformer": "AAAAA",
    "mamba": "MMMMM",
}


@pytest.mark.parametrize(("strategy", "expected"), LETTERS.items())
def test_a_strategy_names_the_letters(strategy: Strategy, expected: str) -> None:
    assert pattern(strategy, 5, (2, 5)) == expected
