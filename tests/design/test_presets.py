import re
from typing import Any

import pytest
import yaml

from hybrid_core.costs.model import fit_depth, model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, paper_check
from hybrid_core.interop import published
from hybrid_core.mixers.diff_attention import DiffAttentionMixer
from hybrid_core.mixers.diff_mamba2 import DiffMamba2Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.validation import SpecError
from hybrid_core.yaml_io import dump
from tests.designs import PaperRow, design, paper_rows

AXES = ("module", "norm", "scalar", "fusion", "value", "out")


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_called_like_its_file_has_a_source_and_is_saved_as_it_stands(
    name: str,
) -> None:
    spec, source = presets.get(name)
    lines = (PROFILES / "presets" / f"{name}.yaml").read_text("utf-8").splitlines(keepends=True)
    assert spec.name == name
    assert re.search(r"arXiv \d{4}\.\d{5}|https://", source)
    text = "".join(line for line in lines if not line.startswith("#"))
    written, saved = yaml.safe_load(text), yaml.safe_load(spec.to_yaml())
    sections = {
        key: {k: value[k] for k in value if k in written[key]}
        for key, value in saved.items()
        if isinstance(value, dict)
    }
    assert (
        dump({key: sections.get(key, value) for key, value in saved.items() if key in written})
        == text
    )


def test_presets_resolve_by_name_and_by_path_and_else_say_so() -> None:
    by_name = published.resolve("llama-1b")
    assert published.resolve(str(PROFILES / "presets" / "llama-1b.yaml")) == by_name
    assert {presets.FIRST, *presets.TABLE2} <= set(presets.names())
    for call in (presets.get, published.resolve):
        with pytest.raises(SpecError, match="'llama-9b'"):
            call("llama-9b")


@pytest.mark.parametrize("row", paper_rows(), ids=str)
def test_every_row_of_tables_9_10_and_12_has_one_preset(row: PaperRow) -> None:
    assert len(row.presets) == 1
    assert row.presets[0].startswith(row.cells["model"])


def axis_words(spec: ArchSpec) -> tuple[str, ...]:
    """Module, norm, scalar, fusion, value and out of a design's layers, in the words of Tables 18
    and 19."""
    (mixer,) = {layer.mixer for layer in spec.stack}
    if isinstance(mixer, DiffAttentionMixer):
        return ("T/T", mixer.norm, mixer.scalar, mixer.fusion, "joint", "joint")
    if isinstance(mixer, DiffMamba2Mixer):
        return ("M/M", mixer.norm, mixer.scalar.replace("_t", "_m"), mixer.fusion, "sep", "sep")
    assert isinstance(mixer, IntraMixer)
    fusion, value, out = (
        mixer.fusion.replace("concat", "conc"),
        mixer.value.replace("shared", "joint"),
        mixer.out,
    )
    return (
        "T/M",
        mixer.norm,
        mixer.scalar,
        fusion,
        value.replace("separate", "sep"),
        out.replace("separate", "sep"),
    )


VARIANTS = [
    row
    for row in baselines.table("table18_19_intra_variants").to_dict("records")
    if isinstance(row["module"], str)
]


@pytest.mark.parametrize(
    "row", VARIANTS, ids=lambda row: "-".join(str(row[key]) for key in (*AXES, "scale"))
)
def test_every_row_of_tables_18_and_19_is_a_preset_of_its_axes_and_depth(
    row: dict[str, Any],
) -> None:
    printed = (tuple(row[key] for key in AXES), row["scale"], row["n_layers"])
    spec = paper_check.ROW_DESIGNS["table18_19_intra_variants"](row)
    assert spec
    assert (axis_words(spec), baselines.scale(spec), spec.n_layers) == printed


def test_the_variants_are_all_the_presets_of_one_intra_or_differential_kind() -> None:
    uniform = {
        name
        for name in presets.names()
        if set(presets.get(name).spec.pattern) in ({"H"}, {"D"}, {"N"})
    }
    assert uniform == {
        paper_check.ROW_DESIGNS["table18_19_intra_variants"](row).name for row in VARIANTS
    }


def indices(printed: str) -> tuple[int, ...]:
    """`4,7,11`, or an open list: `1,3..15` in steps of 2, `1..16` in steps of 1."""
    head, _, last = printed.partition("..")
    first = [int(number) for number in head.split(",")]
    if not last:
        return tuple(first)
    step = first[1] - first[0] if len(first) > 1 else 1
    return tuple(range(first[0], int(last) + 1, step))


def positions(spec: ArchSpec, letter: str) -> tuple[int, ...]:
    return tuple(i for i, kind in enumerate(spec.pattern, start=1) if kind == letter)


POSITION_TABLES = {
    "swa": ("table11_swa_position", "attn_indices", "A"),
    "inter": ("table17_inter_position", "attn_indices", "A"),
    "intra": ("table21_intra_position", "intra_indices", "H"),
}
# Table 17 prints the 350M row {6} with the results of intra 1:12, so that nothing there has those
# of Table 10's inter 1:12.
PRINTED = [("inter-1to12-350m", "A", "6")]
for row in paper_rows():
    if row.cells["model"] in POSITION_TABLES and row.cells.get("budget") == "data":
        table, column, letter = POSITION_TABLES[row.cells["model"]]
        frame = baselines.table(table)
        # A row of Tables 11, 17 or 21 is the one of Table 9 or 10 when both print the same two
        # losses for the same depth and scale.
        same = frame[
            (frame["nll_dclm"] == row.cells["nll_dclm"])
            & (frame["nll_pg19"] == row.cells["nll_pg19"])
        ]
        same = same[
            same["n_hyb" if letter == "H" else "n_attn"] == row.counts["AS.H".index(letter)]
        ]
        PRINTED += [
            (row.presets[0], letter, text)
            for text in same[column]
            if row.presets[0] != "inter-1to12-350m"
        ]


def test_the_position_tables_print_fourteen_rows_of_tables_9_and_10() -> None:
    assert sorted(name for name, _, _ in PRINTED) == sorted(
        [f"swa-1to{n}-1b" for n in (1, 3, 5)]
        + [f"inter-1to{n}-{scale}" for n in (1, 3, 5, 12) for scale in ("1b", "350m")]
        + [f"intra-1to{n}-1b" for n in (1, 3, 5)]
    )


@pytest.mark.parametrize(("name", "letter", "printed"), PRINTED)
def test_a_preset_has_the_positions_printed_beside_its_results(
    name: str, letter: str, printed: str
) -> None:
    """Table 17 runs its 1:1 lists to 16 for a model of 14 layers; what stands beyond the last layer
    is not a position."""
    spec = presets.get(name).spec
    assert positions(spec, letter) == tuple(i for i in indices(printed) if i <= spec.n_layers)


# Layers by fitting to the non-embedding parameters of the scale's Llama; Tables 8, 9, 10, 14 and
# 15.
DEPTHS: dict[str, dict[str, int]] = {
    "1b": {
        "transformer": 16,
        "mamba": 13,
        "inter 1:1": 14,
        "inter 1:3": 13,
        "inter 1:5": 13,
        "inter 1:12": 13,
        "intra 1:0": 13,
        "intra 1:1": 13,
        "intra 1:3": 13,
        "intra 1:5": 13,
        "intra 1:12": 13,
    },
    "350m": {
        "transformer": 14,
        "mamba": 11,
        "inter 1:1": 12,
        "inter 1:3": 11,
        "inter 1:5": 11,
        "inter 1:12": 11,
        "intra 1:1": 11,
        "intra 1:3": 11,
        "intra 1:5": 11,
        "intra 1:12": 11,
    },
    "100m": {"transformer": 8, "mamba": 6, "inter 1:5": 6, "intra 1:5": 6},
    # 22 layers are printed for intra 1:5; 21 come closer to the Llama's parameters.
    "3b": {"transformer": 28, "mamba": 21, "inter 1:5": 22},
}


@pytest.mark.parametrize(
    ("scale", "name", "depth"),
    [(scale, *item) for scale, depths in DEPTHS.items() for item in depths.items()],
)
def test_fitting_the_depth_gives_the_papers_layers(scale: str, name: str, depth: int) -> None:
    llama = presets.get(f"llama-{scale}").spec
    strategy, _, ratio = name.partition(" ")
    layers: dict[str, Any] = {"strategy": strategy} | (
        {"ratio": ratio, "placement": "scatter"} if ratio else {}
    )
    assert (
        fit_depth(llama.replace(layers=layers), model_costs(llama).params().non_embedding).n_layers
        == depth
    )


def test_fitting_the_depth_finds_the_closest_of_all_depths() -> None:
    spec = design("AM" * 15, layers={"strategy": "inter", "ratio": "1:3"})
    sizes = {n: model_costs(spec.replace(n_layers=n)).params().non_embedding for n in range(1, 60)}
    for target in (1, sizes[1], sizes[17] + 10, (sizes[30] + sizes[31]) / 2 + 1000, sizes[55] - 10):
        closest = min(sizes, key=lambda n: abs(sizes[n] - target))
        assert fit_depth(spec, target).n_layers == closest


def test_the_depth_of_layers_given_one_by_one_cannot_be_fitted() -> None:
    for layers in ({"pattern": "AM"}, {"strategy": "inter", "indices": [1]}):
        with pytest.raises(ValueError, match=r"^layers: given one by one"):
            fit_depth(design("AM", layers=layers), 1e6)
