"""Advice quotes the tables: every number is found in the rows it cites, and a rule speaks where it
should and nowhere else."""

import json
import re
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid_core.cli.main import main
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.evidence.advice.cited import Evidence
from hybrid_core.evidence.advice.facts import Facts, Span, facts, meets, scenario
from hybrid_core.evidence.advice.rules import Rule, rules
from tests.designs import valid_designs

RULES = {rule.id: rule for rule in rules()}
EVIDENCE = [(rule.id, item) for rule in rules() for item in (*rule.evidence, *rule.against)]
LENGTHS = (2048, 8192, 32768)


def preset(name: str, **changes: Any) -> ArchSpec:
    return presets.get(name).spec.replace(**changes)


def intra(name: str = "intra-1to0-1b", **axes: Any) -> ArchSpec:
    """A stack of blocks, as in Tables 18 to 20, with other axes or widths; what joins before one
    projection is as wide as d_model."""
    section = preset(name).intra
    assert section
    joined = {"d_ssm": 2048} if axes.get("out") == "joint" or axes.get("value") == "shared" else {}
    return preset(name, intra=section.model_dump(exclude_none=True) | joined | axes)


# ---------------------------------------------------------------- evidence


@pytest.mark.parametrize(
    ("rule", "item"), EVIDENCE, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(EVIDENCE)]
)
def test_evidence_stands_in_one_row_each_with_these_figures_and_in_this_order(
    rule: str, item: Evidence
) -> None:
    first, second = item.found()
    assert len(first) == len(second) == 1, f"{rule}: {len(first)} and {len(second)} rows"
    for column, (value, direction, other) in item.cells.items():
        assert (float(first[column].iloc[0]), float(second[column].iloc[0])) == (value, other), (
            column
        )
        assert direction == (
            "equal" if value == other else "higher" if value > other else "lower"
        ), column


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_figure_in_the_text_is_in_the_evidence(rule: Rule) -> None:
    cited = (*rule.evidence, *rule.against)
    cells = [(column, *cell) for item in cited for column, cell in item.cells.items()]
    known = {value for _, first, _, second in cells for value in (first, second)}
    known |= {
        round(abs(first - second), 3) for column, first, _, second in cells if column == "nll_dclm"
    }  # "costs 0.010 in NLL"
    known |= {
        float(number)
        for item in cited
        for row in item.rows
        for number in row.values()
        if str(number).isdigit()
    }
    figures = re.findall(
        r"\d+\.\d+(?= times)|(?<![\d:.])\d+\.\d{1,3}"
        r"|\d+(?= (?:against|and) [\d ]*(?:tokens|MiB))|\d+(?= (?:tokens|MiB))",
        rule.text,
    )
    assert not rule.evidence or figures
    assert {float(figure) for figure in figures} - ({1.5} if rule.section else set()) <= known
    assert len(re.findall(r"[.!?](?: |$)", rule.text)) <= 3 and "\n" not in rule.text


@pytest.mark.parametrize(
    ("rule", "item"), EVIDENCE, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(EVIDENCE)]
)
def test_no_cell_is_quoted_that_the_paper_itself_contradicts(rule: str, item: Evidence) -> None:
    known = {(table, layers, column) for table, _, layers, column in errata.reasons()}
    for found in item.found():
        for column in item.cells:
            layers = tuple(int(found.iloc[0].get(kind, 0)) for kind in baselines.COUNTS)
            assert (item.table, layers, column) not in known, rule


def test_what_the_tables_do_not_say_is_not_said() -> None:
    texts = " ".join(rule.text for rule in rules())
    for claim in (
        "82.3",
        "76.8",
        "35 %",
        "2.770",
        "1.8 s",
        "0.7 s",
        "NoPE",
        "always",
        "4 points",
        "18 %",
    ):
        assert claim not in texts
    assert "attention.position" not in {rule.control for rule in rules()}


# ---------------------------------------------------------------- conditions

Use = tuple[ArchSpec, int, int | None]


def use(spec: ArchSpec, context_len: int = 8192, needle_distance: int | None = None) -> Use:
    return spec, context_len, needle_distance


CONCAT = {"fusion": "concat", "out": "joint"}  # the blocks of Table 20

# rule -> a design that it is made for, and the paper's better one, which it must not touch
CASES: dict[str, tuple[Use, Use]] = {
    "attention-first-layer": (
        use(preset("inter-1to5-1b", layers={"strategy": "inter", "indices": [1, 8]})),
        use(preset("inter-1to5-1b")),
    ),
    "attention-early": (
        use(preset("inter-1to12-1b", layers={"strategy": "inter", "indices": [2]})),
        use(preset("inter-1to12-1b")),
    ),
    "attention-last-layer": (
        use(preset("inter-1to5-1b", layers={"pattern": "MMAMMMAMMMMMA"})),
        use(preset("inter-1to1-1b")),
    ),
    "intra-sandwich": (
        use(
            preset(
                "intra-1to5-1b",
                layers={"strategy": "intra", "ratio": "1:5", "placement": "sandwich"},
            )
        ),
        use(preset("intra-1to0-1b")),
    ),
    "intra-cluster": (
        use(preset("intra-1to5-1b", layers={"strategy": "intra", "indices": [9, 10]})),
        use(preset("intra-1to12-1b")),
    ),
    "intra-no-group-norm": (use(intra(norm="none")), use(intra())),
    "intra-scale": (use(intra(scalar="scale")), use(intra())),
    "intra-gate": (use(intra(scalar="gate", fusion="add", out="joint")), use(intra(scalar="gate"))),
    "intra-diff-t": (use(intra(scalar="diff_t")), use(intra())),
    "intra-joint-output": (use(intra(out="joint")), use(intra())),
    "intra-add": (use(intra(fusion="add")), use(intra())),
    "intra-concat": (use(intra(fusion="concat", out="joint")), use(intra())),
    "intra-shared-values": (
        use(intra(value="shared", out="joint", scalar="scale", fusion="add")),
        use(intra()),
    ),
    "intra-narrow-attention": (use(intra(qk_head_dim=32, **CONCAT)), use(intra(**CONCAT))),
    "intra-wide-attention": (
        use(intra("intra-1to0-350m", qk_head_dim=88, **CONCAT, d_ssm=1536)),
        use(intra(qk_head_dim=112, **CONCAT)),
    ),
    "inter-sparser-for-speed": (
        use(preset("inter-1to1-1b"), 32768),
        use(preset("inter-1to5-1b"), 32768),
    ),
    "inter-denser-for-quality": (
        use(preset("inter-1to5-1b"), 2048),
        use(preset("inter-1to1-1b"), 2048),
    ),
    "inter-very-sparse": (use(preset("inter-1to12-350m")), use(preset("inter-1to5-350m"))),
    "intra-sparser-for-speed": (
        use(preset("intra-1to0-1b"), 32768),
        use(preset("intra-1to5-1b"), 32768),
    ),
    "intra-denser-for-quality": (
        use(preset("intra-1to5-1b"), 2048),
        use(preset("intra-1to1-1b"), 2048),
    ),
    "intra-very-sparse": (use(preset("intra-1to12-1b")), use(preset("intra-1to5-1b"))),
    "swa-too-much-global": (use(preset("swa-1to1-1b")), use(preset("swa-1to5-1b"))),
    "llama-to-hybrid": (use(preset("llama-1b")), use(preset("inter-1to5-1b"))),
    "llama-long-context": (use(preset("llama-1b"), 16384), use(preset("llama-1b"), 8192)),
    "mamba-to-hybrid": (use(preset("mamba-350m")), use(preset("inter-1to12-350m"))),
    "mamba-long-context": (use(preset("mamba-1b"), 32768), use(preset("mamba-1b"), 16384)),
    "swa-to-hybrid": (use(preset("swa-1to5-1b")), use(preset("inter-1to5-1b"))),
    "swa-long-context": (use(preset("swa-1to5-1b"), 32768), use(preset("inter-1to5-1b"), 32768)),
    "window-without-global": (use(preset("swa-0to1-1b")), use(preset("swa-1to12-1b"))),
    "inter-to-intra": (use(preset("inter-1to5-1b")), use(preset("inter-1to5-1b"), 32768)),
    "experts": (use(preset("intra-1to5-1b")), use(preset("intra-1to5-moe-1b"))),
    "needle-beyond-window": (
        use(preset("swa-1to5-1b"), 8192, 4096),
        use(preset("swa-1to5-1b"), 8192, 500),
    ),
    "needle-behind-mamba": (
        use(preset("mamba-1b"), 8192, 4096),
        use(preset("inter-1to5-1b"), 8192, 4096),
    ),
    "needle-beyond-training": (
        use(preset("llama-1b"), 12288, 4096),
        use(preset("llama-1b"), 8192, 4096),
    ),
}


def ids(case: Use) -> list[str]:
    return [found.rule.id for found in advise(*case)]


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == set(RULES) and len(RULES) == len(rules())


@pytest.mark.parametrize(
    ("rule", "fires", "silent"), [(rule, *uses) for rule, uses in CASES.items()], ids=CASES
)
def test_a_rule_speaks_of_the_design_made_for_it_and_not_of_the_better_one(
    rule: str, fires: Use, silent: Use
) -> None:
    assert rule in ids(fires)
    assert rule not in ids(silent)


@pytest.mark.parametrize(
    "name",
    [
        "inter-1to5-1b",
        "intra-1to5-1b",
        "intra-1to0-1b",
        "intra-1to5-350m",
        "inter-1to5-moe-1b",
        "intra-1to5-3b",
    ],
)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_papers_own_choices_get_no_warning(name: str, length: int) -> None:
    assert [
        found.rule.id
        for found in advise(preset(name), length, length // 2)
        if found.rule.kind == "warning"
    ] == []


def test_the_ends_of_the_stack_do_not_matter_where_every_layer_is_the_same() -> None:
    known = facts(preset("llama-1b"), 8192)
    assert not (
        known.first_layer_has_attention
        or known.last_layer_has_attention
        or known.sandwich
        or known.cluster
    )
    assert facts(preset("intra-1to0-1b"), 8192).sandwich is False


def test_a_needle_within_the_sinks_is_not_beyond_the_window() -> None:
    spec = preset("swa-1to5-1b")  # window 512, sink 64
    seen = [
        facts(spec, 8192, distance).needle_beyond_window
        for distance in (512, 513, 8192 - 64, 8192 - 63)
    ]
    assert seen == [False, True, True, False]


def test_a_stack_the_paper_never_trained_gets_no_advice_on_its_mixture() -> None:
    spec = preset("inter-1to5-1b", layers={"pattern": "MMMSMMMAMMMMM"})
    assert facts(spec, 8192).family is None
    assert [found.rule.control for found in advise(spec, 8192)] == []


@given(valid_designs(), st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_any_design_can_be_asked_about(spec: ArchSpec, length: int) -> None:
    assert all(found.weight > 0 for found in advise(spec, length, max(1, length // 2)))


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (None, Span(max=1.0), False),
        (None, "none", False),
        (0.3, Span(max=0.3), True),
        (0.31, Span(max=0.3), False),
        ("add", ("add", "diff"), True),
        ("concat", ("add", "diff"), False),
        (True, True, True),
        (False, True, False),
    ],
)
def test_conditions(value: Any, wanted: Any, expected: bool) -> None:
    assert meets(value, wanted) is expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"when": {"colour": "red"}}, "colour"),
        ({"evidence": ()}, "evidence"),
        ({"kind": "order"}, "kind"),
        ({"when": {"family": 3.5j}}, "when"),
    ],
)
def test_a_malformed_rule_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Rule.model_validate(RULES["intra-gate"].model_dump() | changes)


# ---------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, "short"), (8191, "short"), (8192, "medium"), (16384, "medium"), (16385, "long")],
)
def test_scenarios(length: int, expected: str) -> None:
    assert scenario(length) == expected


@pytest.mark.parametrize("name", [*presets.TABLE2, "inter-1to1-1b", "swa-0to1-1b"])
@pytest.mark.parametrize("length", LENGTHS)
def test_weightier_advice_comes_first_and_weightless_advice_not_at_all(
    name: str, length: int
) -> None:
    found = advise(preset(name), length, length // 2)
    order = [
        (-getattr(RULES[item.rule.id].weight, scenario(length)), item.rule.kind != "warning")
        for item in found
    ]
    assert order == sorted(order) and all(weight for weight, _ in order)


def test_speed_leads_at_long_context_and_quality_at_short() -> None:
    dense, sparse = preset("inter-1to1-1b"), preset("inter-1to5-1b")
    assert ids(use(dense, 32768))[0] == "inter-sparser-for-speed"
    assert "inter-sparser-for-speed" not in ids(use(dense, 2048))
    assert "inter-denser-for-quality" in ids(
        use(sparse, 2048)
    ) and "inter-denser-for-quality" not in ids(use(sparse, 32768))


# ---------------------------------------------------------------- data and command line


def test_the_facts_are_the_whole_vocabulary() -> None:
    assert {key for rule in rules() for key in rule.when} <= set(Facts._fields)
    assert all(rule.sources for rule in rules())
    assert RULES["inter-sparser-for-speed"].sources == "Table 13, Table 9"
    assert all(isinstance(frame, pd.DataFrame) for _, item in EVIDENCE for frame in item.found())


def test_advice_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advice", "llama-1b", "--context-len", "32768", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["id"] == "llama-long-context" and found[0]["scenario"] == "long"
    assert found[0]["evidence"][0]["cells"]["nll_dclm"] == [2.703, "higher", 2.667]
    assert main(["advice", "llama-1b", "--context-len", "32768"]) == 0
    assert "[Table 12]" in capsys.readouterr().out
    assert main(["advice", "intra-1to5-moe-1b", "--context-len", "32768"]) == 0
    assert "suggest no change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such"], "no-such"),
        (["llama-1b", "--context-len", "0"], "context_len: 0"),
        (["llama-1b", "--needle-distance", "9999"], "needle_distance: 9999"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["advice", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err


def test_a_scenario_given_by_hand_outranks_the_context_and_changes_what_comes_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = presets.get("llama-1b").spec
    assert {found.scenario for found in advise(spec, 2048)} == {"short"}
    assert {found.scenario for found in advise(spec, 2048, use="long")} == {"long"}
    assert main(["advice", "llama-1b", "--context-len", "2048", "--scenario", "long"]) == 0
    assert "llama-1b, long context" in capsys.readouterr().out
