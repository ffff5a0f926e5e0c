"""The printed rows nearest to a design."""

import pytest

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.records import record
from hybrid_core.interop import published
from hybrid_core.report.text.evidence import quality_lines
from tests.designs import design

MAMBA_1 = "The paper measured Mamba-2; this design's Mamba layers are Mamba-1."


def published_spec(name: str) -> ArchSpec:
    return published.models()[name].spec


# Model, then the nearest row's name, attention, window, Mamba and intra-hybrid layers, and the
# share of layers that would have to change kind, by hand from the layers in each model's config.
NEAREST = [
    ("Falcon-Mamba-7B", "mamba", [0, 0, 13, 0], 0),
    # 4 of 32 layers are attention, 2 of 13 in the row: 2/13 - 4/32.
    ("Jamba-v0.1", "inter", [2, 0, 11, 0], 2 / 13 - 4 / 32),
    # Half Mamba, half windows; no row has both. The row has half windows, half attention.
    ("Samba-1.3B", "swa", [8, 8, 0, 0], 1 / 2),
    # 63 of 76 layers are Mamba alone. The other 13 hold a shared block, which no row has.
    ("Zamba-7B-v1", "mamba", [0, 0, 13, 0], 13 / 76),
    ("Vamba-Qwen2-VL-7B", "intra", [0, 0, 0, 13], 0),
]


@pytest.mark.parametrize(("name", "model", "layers", "distance"), NEAREST)
def test_layers_that_resemble_the_papers_find_their_rows(
    name: str, model: str, layers: list[int], distance: float
) -> None:
    row = baselines.nearest(published_spec(name), 1).iloc[0]
    assert (row["model"], row["scale"]) == (model, "1B")
    assert row[baselines.COUNTS].tolist() == layers
    assert row["distance"] == pytest.approx(distance)


@pytest.mark.parametrize("name", ["Falcon-Mamba-7B", "Jamba-v0.1", "Samba-1.3B", "Zamba-7B-v1"])
def test_beside_the_nearest_rows_stands_that_the_paper_measured_mamba_2(name: str) -> None:
    spec = published_spec(name)
    assert baselines.unlike_the_papers(spec) == MAMBA_1
    assert quality_lines(record(spec)).endswith(f"\n\n{MAMBA_1}")


def test_nothing_is_said_of_a_design_of_the_papers_kinds() -> None:
    for name in ("mamba-1b", "intra-1to5-1b", "inter-1to5-1b", "llama-1b"):
        spec = presets.get(name).spec
        assert baselines.unlike_the_papers(spec) == ""
        assert quality_lines(record(spec)).endswith("quoted")


def test_only_kinds_of_the_papers_tables_are_counted() -> None:
    assert baselines.counts(design("AASMMMH")) == (2, 1, 3, 1)
    assert baselines.counts(design("AD")) == (1, 0, 0, 0)  # D is differential attention
    mamba_1 = published_spec("Falcon-Mamba-7B")
    assert baselines.counts(mamba_1) == (0, 0, 0, 0)  # Table 9's figures are not quoted of it
