"""Shapes that the libraries' kernels refuse, against what those libraries' sources and issues
say."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybrid_core.cli.main import main
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.interop.kernel_shapes import FORMATS, kernel_refusals
from tests.designs import MAMBA1, design

# state-spaces/mamba#643: d_model 64, d_ssm 128, two heads of 64, a state of 128; 514 = 2 * 128 + 2
# * 128 + 2.
MAMBA643 = design("M", d_model=64, ssm={"d_ssm": 128, "head_dim": 64, "d_state": 128}, ffn=None)
LINE_643 = (
    "mamba2.in_proj: 514 wide (2 * d_ssm + 2 * n_groups * d_state + n_heads) - "
    "causal-conv1d needs strides that are multiples of 8"
)

DELTANET = {
    "kind": "gated_deltanet",
    "n_k_heads": 2,
    "n_v_heads": 2,
    "k_head_dim": 8,
    "v_head_dim": 8,
}
KDA = {"kind": "kda", "n_heads": 2, "head_dim": 8}
EIGHT = {"d_ssm": 128, "head_dim": 16, "d_state": 16}  # 2 * 128 + 2 * 16 + 8 = 296 = 37 * 8

REFUSED: list[tuple[ArchSpec, list[str]]] = [
    (MAMBA643, [f"layer 1, {LINE_643}"]),
    (
        design("MM", ssm=EIGHT | {"d_conv": 5}),
        ["layer 1 and 1 more, mamba2.d_conv: 5 - causal-conv1d takes 2, 3, 4"],
    ),
    (
        design(
            "M", intra=None, ssm=EIGHT | {"d_state": 18, "n_groups": 2}
        ),  # 128 + 2 * 2 * 18 = 200, 328 + 8 = 336: both multiples of 8
        [],
    ),
    (
        design("M", ssm=EIGHT | {"d_state": 18}),  # 128 + 36 = 164
        [
            "layer 1, mamba2.convolution: 164 channels (d_ssm + 2 * n_groups * d_state) - "
            "causal-conv1d needs a multiple of 8",
            LINE_643.replace("514", "300").replace("mamba2", "layer 1, mamba2"),
        ],
    ),
    (
        design("M", ssm=MAMBA1 | {"d_state": 257}),
        ["layer 1, mamba1.d_state: 257 - mamba_ssm's selective scan takes at most 256"],
    ),
    (
        design("R", mixers={"R": DELTANET | {"k_head_dim": 264}}),
        ["layer 1, gated_deltanet.k_head_dim: 264 - fla's delta rule takes keys of at most 256"],
    ),
    (
        design("R", mixers={"R": KDA | {"head_dim": 264}}),
        ["layer 1, kda.head_dim: 264 - fla's delta rule takes keys of at most 256"],
    ),
    (
        design("A", attention={"head_dim": 264}),
        ["layer 1, attention.head_dim: 264 - flash-attn takes at most 256"],
    ),
    (design("AMS", ssm=EIGHT), []),
    (design("R", mixers={"R": DELTANET}), []),
    (design("H"), []),  # no library runs the paper's own block
]


@pytest.mark.parametrize(
    ("spec", "lines"), REFUSED, ids=[f"{spec.pattern}-{i}" for i, (spec, _) in enumerate(REFUSED)]
)
def test_a_shape_that_a_kernel_refuses_is_named(spec: ArchSpec, lines: list[str]) -> None:
    assert kernel_refusals(spec) == lines


def test_a_width_of_one_is_refused_and_the_published_models_are_fine() -> None:
    assert (
        "d_conv: 1 - causal-conv1d takes 2, 3, 4"
        in kernel_refusals(design("M", ssm=EIGHT | {"d_conv": 1}))[0]
    )
    odd = {name: kernel_refusals(model.spec) for name, model in published.models().items()}
    assert {name for name, lines in odd.items() if lines} == {
        "Zamba-7B-v1"
    }  # heads of 2 * 3712 / 16 = 464, which SDPA takes


# Package, file, and the words there that a rule rests on.
SOURCES = [
    (
        "mamba_ssm",
        "ops/triton/ssd_combined.py",
        "Number of convolution channels is required to be a multiple of 8",
    ),
    ("mamba_ssm", "ops/triton/layernorm_gated.py", "MAX_FUSED_SIZE = 65536 // x.element_size()"),
    ("fla", "ops/common/chunk_delta_h.py", "assert K <= 256"),
    ("fla", "ops/kda/chunk.py", "assert K <= 256"),
]


@pytest.mark.parametrize(
    ("package", "file", "words"), SOURCES, ids=[file for _, file, _ in SOURCES]
)
def test_the_rules_stand_in_the_installed_sources(package: str, file: str, words: str) -> None:
    if package == "fla":
        folder = Path(sys.prefix) / "fla" / "fla"
    else:
        found = find_spec(package)
        assert found is not None
        assert found.submodule_search_locations is not None
        folder = Path(found.submodule_search_locations[0])
    assert words in (folder / file).read_text("utf-8")


def test_cost_says_it_in_both_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mamba643.yaml"
    path.write_text(MAMBA643.to_yaml())
    assert main(["cost", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernel_shapes"] == [f"layer 1, {LINE_643}"]
    assert main(["cost", str(path)]) == 0
    assert f"\nkernel shape: layer 1, {LINE_643}\n" in capsys.readouterr().out
    assert main(["cost", "inter-1to5-1b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernel_shapes"] == []


@pytest.mark.parametrize("to", [*FORMATS, "yaml"])
def test_an_export_works_and_says_it(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mamba643.yaml"
    path.write_text(MAMBA643.to_yaml())
    assert main(["export", str(path), "--to", to, "-o", str(tmp_path / "out")]) == 0
    assert any((tmp_path / "out").iterdir())
    expected = f"kernel shape: layer 1, {LINE_643}\n" if to in FORMATS else ""
    assert capsys.readouterr().err == expected


def test_a_short_convolution_has_the_streams_channels() -> None:
    short = {"kind": "short_conv", "d_conv": 3}
    odd = design("A", d_model=1100, mixers={"C": short}, layers={"pattern": "C"})
    assert [line for line in kernel_refusals(odd) if "1100" in line and "multiple" in line]
    assert kernel_refusals(odd.replace(d_model=1104)) == []
