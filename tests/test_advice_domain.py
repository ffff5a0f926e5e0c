"""A rule speaks only where the tables do: every printed pair of rows that differ as a rule's own rows do is looked up, in every table."""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import pytest

from hybrid_core import baselines, presets
from hybrid_core.advice import SCENARIOS, Evidence, Rule, advise, domains, nearest_scale, rules
from hybrid_core.quality import ablations, additive
from hybrid_core.spec import ArchSpec

RULES = {rule.id: rule for rule in rules()}
LETTERS = {"swa": ("A", "S"), "inter": ("A", "M"), "intra": ("H", "M")}
AXES = ("norm", "scalar", "fusion", "value", "out")
MISPRINTED = {(10, 2): (10, 3), (7, 6): (6, 7)}  # Tables 9 and 13: by their figures 1:3 and 1:1


class Printed(NamedTuple):
    """A row: what was varied (by axis), what must be alike to compare two rows, its context, and how to build its design."""

    table: str
    varied: dict[str, Any]
    same: tuple[Any, ...]
    scale: str
    context_len: int
    row: pd.Series


def mixtures() -> Iterator[Printed]:
    """Rows printed by family and ratio."""
    names = ("table04_moe", "table09_1b", "table10_350m", "table12_long_context", "table13_throughput", "table14_15_scaling")
    for name in names:
        for _, row in baselines.table(name).iterrows():
            share = mixed_share(name, row)
            ratio = min(ablations.RATIOS, key=lambda ratio: abs(ablations.RATIOS[ratio] - share))
            experts = isinstance(row.get("experts"), str)
            budget = row.get("budget", row.get("train_flops") if name == "table14_15_scaling" else "")
            context = int(row.get("context_len", 8192))
            varied = {"model": row["model"], "ratio": ratio, "experts": experts}
            yield Printed(name, varied, (budget, context), row.get("scale", "1B"), context, row)


def mixed_share(name: str, row: pd.Series) -> float:
    """The share of expensive blocks; 5 + 1 of inter at 100M is 1 + 5 by its parameters and tokens."""
    attn, swa, ssm, hyb = (int(row.get(column, 0)) for column in baselines.COUNTS)
    if row["model"] == "inter" and row.get("scale") == "100M":
        attn, ssm = ssm, attn
    if row["model"] == "intra" and (ssm, hyb) in MISPRINTED:
        ssm, hyb = MISPRINTED[ssm, hyb]
    return (attn + hyb) / (attn + swa + ssm + hyb)


def positions() -> Iterator[Printed]:
    """Rows printed by where their expensive blocks stand."""
    tables = {"table11_swa_position": "swa", "table17_inter_position": "inter", "table21_intra_position": "intra"}
    for name, family in tables.items():
        for _, row in baselines.table(name).iterrows():
            if row["pattern"] in ("all", "none"):
                continue
            yield Printed(name, {"place": place(row)}, (row["ratio"], family), row.get("scale", "1B"), 8192, row)


def place(row: pd.Series) -> str:
    """`middle`, `front`, `end`, ...; a single layer is `front` at 1, `middle` at 7 of 13, else called by its index.

    At 350M the middle is 8 of 11: the row of layer 6 repeats an intra row.
    """
    if row["pattern"] != "single":
        return str(row["pattern"])
    if row["attn_indices"] == "1":
        return "front"
    middle = {"1B": "7", "350M": "8"}[row["scale"]]
    return "middle" if row["attn_indices"] == middle else str(row["attn_indices"])


def blocks() -> Iterator[Printed]:
    """Rows printed by the axes of the intra-hybrid block."""
    for _, row in baselines.table("table18_19_intra_variants").query("module == 'T/M'").iterrows():
        yield Printed("table18_19_intra_variants", {axis: row[axis] for axis in AXES}, (), row["scale"], 8192, row)
    for _, row in baselines.table("table06_intra_summary").query("module == 'T/M'").iterrows():
        filled = {"norm": "none", "scalar": "none"} | {axis: row[axis] for axis in AXES if axis in row and isinstance(row[axis], str)}
        filled |= {"value": "sep", "out": {1: "joint", 2: "sep"}[row["out"]]}
        yield Printed("table06_intra_summary", filled, (), "1B", 8192, row)


def widths() -> Iterator[Printed]:
    """Rows printed by the widths of the block's branches."""
    for _, row in baselines.table("table20_dim_ratio").query("n_hyb > 0").iterrows():
        share = row["dim_transformer"] / {"1B": 2048, "350M": 1536}[row["scale"]]
        width = "narrow" if share < 0.3 else "less" if share < 0.5 else "wide" if share > 0.75 else "equal"
        yield Printed("table20_dim_ratio", {"width": width}, (), row["scale"], 8192, row)


PRINTED = [*mixtures(), *positions(), *blocks(), *widths()]


def built(printed: Printed) -> ArchSpec | None:
    """The design of a row, or None where no preset or pattern makes it."""
    scale = printed.scale.lower()
    if "model" in printed.varied:
        family, ratio = printed.varied["model"], printed.varied["ratio"].replace(":", "to")
        ratio = "" if family in ("llama", "mamba") else f"-{ratio}"
        name = f"{family}{ratio}{'-moe' if printed.varied['experts'] else ''}-{scale}"
        return presets.get(name).spec if name in presets.names() else None
    if "place" in printed.varied:
        ratio, family = printed.same
        column = "intra_indices" if family == "intra" else "attn_indices"
        n_layers = sum(int(printed.row.get(count, 0)) for count in baselines.COUNTS)
        chosen = additive.indices(str(printed.row[column]), n_layers)
        expensive, cheap = LETTERS[family]
        pattern = "".join(expensive if i in chosen else cheap for i in range(1, n_layers + 1))
        return presets.get(f"{family}-1to5-{scale}").spec.replace(n_layers=n_layers, layers={"pattern": pattern})
    spec = presets.get(f"intra-1to0-{scale}").spec
    assert spec.intra
    section = spec.intra.model_dump(exclude_none=True)
    if "width" in printed.varied:
        query = int(printed.row["dim_transformer"]) // section["n_heads"]
        return spec.replace(intra=section | {"qk_head_dim": query})
    words = {"conc": "concat", "sep": "separate", "joint": "joint"}
    axes = {axis: words.get(value, value) for axis, value in printed.varied.items()}
    if axes["value"] == "joint":
        axes["value"] = "shared"
    if axes["out"] == "joint" or axes["value"] == "shared":
        section["d_ssm"] = section["n_heads"] * section["v_head_dim"]
    return spec.replace(intra=section | axes)


def change(first: Printed, second: Printed) -> frozenset[tuple[str, Any, Any]]:
    """In what two rows differ: (axis, value of the first, value of the second)."""
    return frozenset((axis, value, second.varied[axis]) for axis, value in first.varied.items() if value != second.varied[axis])


def rows_of(item: Evidence) -> tuple[Printed, Printed] | None:
    """The two printed rows that a rule cites."""
    found = []
    for frame in item.found():
        row = frame.iloc[0]
        found += [printed for printed in PRINTED if printed.table == item.table and printed.row.name == row.name]
    return (found[0], found[1]) if len(found) == 2 else None


Contrary = tuple[Rule, Printed, Printed, str, float, float]


def contrary(rule: Rule) -> Iterator[Contrary]:
    """Every printed pair that differs as cited rows do, with the opposite order in a cited column."""
    for item in rule.evidence:
        cited = rows_of(item)
        if cited is None:
            continue
        wanted = change(*cited)
        for first, second in product(PRINTED, PRINTED):
            alike = first.table == second.table and first.scale == second.scale and first.same == second.same
            if not alike or change(first, second) != wanted:
                continue
            for column, (_, order, _) in item.cells.items():
                if order == "equal" or column not in first.row or pd.isna(first.row[column]):
                    continue
                one, two = float(first.row[column]), float(second.row[column])
                printed = "lower" if one < two else "higher" if one > two else "equal"
                if printed not in {"equal", order} and printed not in claimed_at(rule, first.scale, column):
                    yield rule, first, second, column, one, two


def claimed_at(rule: Rule, scale: str, column: str) -> set[str]:
    """The orders that a rule's own rows of a scale have: a rule may say that a choice is better at one scale and worse at another."""
    return {item.cells[column][1] for item in rule.evidence if column in item.cells and item.scale == scale}


def quoted(rule: Rule) -> set[tuple[str, float, float]]:
    return {(column, cell[0], cell[2]) for item in (*rule.evidence, *rule.against) for column, cell in item.cells.items()}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_where_a_table_says_the_opposite_a_rule_is_silent_or_quotes_it(rule: Rule) -> None:
    for _, first, second, column, one, two in contrary(rule):
        if (column, one, two) in quoted(rule) and str(one).ljust(5, "0") in rule.text and str(two).ljust(5, "0") in rule.text:
            continue
        for spec, use in product((built(first), built(second)), SCENARIOS):
            given = [advice.rule.id for advice in advise(spec, first.context_len, use=use)] if spec else []
            assert rule.id not in given, f"{first.table} {first.scale} {first.same}: {column} {one} against {two}"


def test_the_look_up_finds_what_the_tables_print() -> None:
    """Tables 14 and 15 at 3B, 4e20 FLOPs: intra 2.676, inter 2.672. Table 12 at 32K: accuracy 53.5 and 54.0."""
    found = {(first.table, first.scale, column, one, two) for _, first, _, column, one, two in contrary(RULES["inter-to-intra"])}
    assert ("table14_15_scaling", "3B", "nll_dclm", 2.676, 2.672) in found
    assert ("table12_long_context", "1B", "avg", 53.5, 54.0) in found
    # Table 10 at 1:1, 60B tokens: intra 2.854, inter 2.850.
    assert ("table10_350m", "350M", "nll_dclm", 2.854, 2.850) in found
    # Tables 18 and 19 at 350M, one projection: lambda 2.856, without 2.858.
    at = {(first.scale, one, two) for _, first, _, _, one, two in contrary(RULES["intra-diff-t"])}
    assert ("350M", 2.856, 2.858) in at


def test_every_rule_with_rows_is_looked_up() -> None:
    missed = {rule.id for rule in rules() for item in rule.evidence if rows_of(item) is None and item.table != "table03_downstream"}
    assert missed == set()


def given(name: str, context_len: int, **changes: Any) -> set[str]:
    spec = presets.get(name).spec.replace(**changes)
    return {advice.rule.id for use in SCENARIOS for advice in advise(spec, context_len, use=use)}


def test_intra_blocks_are_advised_where_they_were_better_and_nowhere_else() -> None:
    # 1:5 at 60B tokens: 2.728 against 2.735 (1B), 2.858 against 2.860 (350M).
    # 3B at 4e20 FLOPs: 2.676 against 2.672. 1B at 32K: 2.722 both, accuracy 53.5 against 54.0 %.
    assert "inter-to-intra" in given("inter-1to5-1b", 8192) & given("inter-1to5-350m", 8192) & given("inter-1to5-1b", 16384)
    for name, length in (("inter-1to5-3b", 8192), ("inter-1to5-3b", 2048), ("inter-1to5-1b", 32768), ("inter-1to1-350m", 8192)):
        assert "inter-to-intra" not in given(name, length), (name, length)


def test_at_long_context_only_rows_trained_at_it_or_measured_at_it_speak() -> None:
    for name in ("inter-1to1-1b", "intra-1to5-1b", "mamba-1b", "llama-1b", "swa-1to5-1b"):
        for rule in given(name, 32768):
            assert RULES[rule].section or {item.table for item in RULES[rule].evidence} & {"table12_long_context", "table13_throughput"}
    # Table 12 at 32K: pure Mamba 2.716, inter 1:5 2.722.
    assert "mamba-to-hybrid" not in given("mamba-1b", 32768)


WIDE = {"d_model": 4096, "n_layers": 36, "ffn": {"kind": "swiglu", "d_ff": 14336}}


def test_a_size_that_the_paper_has_not_gets_what_held_at_every_scale_and_hears_at_which() -> None:
    spec = presets.get("inter-1to5-1b").spec.replace(**WIDE, layers={"strategy": "inter", "ratio": "1:5", "placement": "front"})
    assert nearest_scale(spec) is None
    found = {advice.rule.id: advice.sources for advice in advise(spec, 8192)}
    # Table 17: front against middle at both of its scales.
    assert found["attention-first-layer"] == "Table 17, models of 350M and 1B"
    assert not set(found) & {"inter-to-intra", "experts", "inter-sparser-for-speed"}
    for rule in found:
        assert len(domains()[rule].scales) > 1 and not RULES[rule].against


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("llama-100m", {}, "100M"),
        ("mamba-350m", {}, "350M"),
        ("inter-1to5-moe-1b", {}, "1B"),  # 0.96B active
        ("intra-1to5-3b", {}, "3B"),  # 2.89B
        ("llama-1b", {"n_layers": 8}, "350M"),  # 0.49B: 1.4 times 350M
        ("llama-1b", {"n_layers": 10}, None),  # 0.61B: 1.6 and 1.7 times away
        ("llama-1b", WIDE, None),  # 7.8B
    ],
)
def test_the_scale_is_the_papers_nearest_in_parameters(name: str, changes: dict[str, Any], expected: str | None) -> None:
    assert nearest_scale(presets.get(name).spec.replace(**changes)) == expected
