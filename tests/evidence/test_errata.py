"""The paper's contradictions and misprints are data: each line is one that the tables bear out."""

import pytest

from hybrid_core.evidence import baselines, errata, paper_check


def test_a_line_is_listed_for_every_cell_that_disagrees_with_what_is_printed_and_computed() -> None:
    listed = {}
    for known in errata.contradictions():
        listed.setdefault((known.key, known.printed), []).append(known.computed)
    used = set()
    for cells in paper_check.check_all().values():
        for cell in cells:
            if cell.contradiction:
                lines = listed[cell.contradiction, cell.printed]
                assert any(paper_check.rounds_to(cell.computed, line) for line in lines), cell
                used.add((cell.contradiction, cell.printed))
    assert used == set(listed)


def test_every_line_says_why_and_where_to_check_it() -> None:
    for known in (*errata.contradictions(), *errata.misprints()):
        assert known.table in baselines.TABLES
        assert known.reason and known.source


# Table 9 prints intra 1:3 as 10 + 3 at 60B tokens and as 10 + 2, with the same 0.98B and 50 MiB, at
# equal FLOPs. Table 13 exchanges the counts of 1:1, which Tables 9 and 21 print as 6 + 7.
@pytest.mark.parametrize(
    ("table", "printed", "meant"),
    [
        ("table09_1b", (0, 0, 10, 2), (0, 0, 10, 3)),
        ("table09_1b", (0, 0, 6, 7), (0, 0, 6, 7)),
        ("table13_throughput", (0, 0, 10, 2), (0, 0, 10, 3)),
        ("table13_throughput", (0, 0, 7, 6), (0, 0, 6, 7)),
    ],
)
def test_a_misprinted_row_means_the_layers_that_its_figures_fit(
    table: str, printed: tuple[int, ...], meant: tuple[int, ...]
) -> None:
    assert errata.meant_layers(table, printed) == meant


def test_the_row_that_repeats_another_has_no_loss_of_its_own() -> None:
    name = "table17_inter_position"
    repeated = baselines.table(name).query("scale == '350M' and attn_indices == '6'").iloc[0]
    intra = baselines.table("table10_350m").query("n_hyb == 1 and budget == 'data'").iloc[0]
    assert repeated["nll_dclm"] == intra["nll_dclm"] == 2.861
    assert repeated["nll_pg19"] == intra["nll_pg19"] == 2.999
    assert errata.has_no_loss(name, "350M", "attn_indices", "6")
    assert not errata.has_no_loss(name, "350M", "attn_indices", "8")
    assert not errata.has_no_loss(name, "1B", "attn_indices", "6")


def test_table_20_prints_no_axes_and_its_equal_widths_have_the_losses_of_these() -> None:
    axes = errata.not_printed("table20_dim_ratio")
    blocks = baselines.table("table18_19_intra_variants").query("module == 'T/M'")
    for axis, value in axes.items():
        blocks = blocks[blocks[axis] == value]
    widths = baselines.table("table20_dim_ratio")
    for scale, equal in (("1B", 1152), ("350M", 896)):
        row = widths[(widths["scale"] == scale) & (widths["dim_transformer"] == equal)].iloc[0]
        (nll,) = blocks[blocks["scale"] == scale]["nll_dclm"]
        assert row["nll_dclm"] == nll
