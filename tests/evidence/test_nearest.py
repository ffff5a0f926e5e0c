"""The printed rows nearest to a design."""

from hybrid_core.evidence import baselines
from hybrid_core.interop import published


def test_a_stack_of_mamba_1_is_nearest_to_the_papers_mamba_stacks() -> None:
    row = baselines.nearest(published.models()["Falcon-Mamba-7B"].spec, 1).iloc[0]
    assert row["model"] == "mamba"
    assert row["distance"] == 0
