from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from hypothesis import given, settings

from hybrid_core.design.spec import ArchSpec
from hybrid_core.validation import SpecError
from hybrid_core.yaml_io import safe_mapping
from tests.designs import complaint, design, mapping, valid_designs

# As printed in the project's design.
EXAMPLE = """\
schema: 1
name: inter-1to5-1b
vocab_size: 128256
tie_embeddings: true
d_model: 2048
n_layers: 13
layers: {strategy: inter, ratio: "1:5", placement: middle}   # or indices: [4, 8]; or pattern: "MMMAMMMAMMMMM" (A attention, S window, M Mamba, H intra-hybrid)
attention: {n_heads: 32, n_kv_heads: 8, head_dim: 64, position: rope, rope_theta: 500000}
swa: {window: 512, sink: 64, rope_theta: 10000}
ssm: {kind: mamba2, d_ssm: 4096, head_dim: 128, d_state: 128, d_conv: 4, n_groups: 1}
intra: {n_heads: 16, n_kv_heads: 4, qk_head_dim: 72, v_head_dim: 128, d_ssm: 2304, norm: group, scalar: none, fusion: diff, value: separate, out: separate}
ffn: {kind: swiglu, d_ff: 8192}      # or kind: moe with n_routed, top_k, n_shared, d_expert
"""  # noqa: E501
PLAIN = yaml.safe_dump(mapping("AMSH"), sort_keys=False)


def saved_twice(spec: ArchSpec) -> None:
    text = spec.to_yaml()
    again = ArchSpec.from_yaml(text)
    assert again == spec
    assert again.to_yaml() == text


@settings(max_examples=150, deadline=None)
@given(valid_designs())
def test_a_saved_design_loads_as_itself_and_saves_as_the_same_bytes(spec: ArchSpec) -> None:
    saved_twice(spec)


NAMES = [
    "1",
    "true",
    "null",
    "~",
    "1e3",
    "a: b",
    "# c",
    " x ",
    "'",
    '"',
    "- a",
    "{a}",
    "!!int 1",
    "é 模型 🐍",
    "\u2028",
    "\ufeff",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_yaml_would_take_for_something_else_survives(name: str) -> None:
    saved_twice(ArchSpec.from_mapping(mapping("A", name=name)))


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ('{strategy: inter, ratio: "1:5", placement: middle}', "MMMMAMMMAMMMM"),
        ("{strategy: inter, indices: [4, 8]}", "MMMAMMMAMMMMM"),
        ('{pattern: "MMMAMMMAMMMMM"}', "MMMAMMMAMMMMM"),
    ],
    ids=["ratio", "indices", "pattern"],
)
def test_the_designs_own_example_loads_verbatim_and_with_the_alternatives_it_names(
    layers: str, pattern: str
) -> None:
    spec = ArchSpec.from_yaml(
        EXAMPLE.replace('{strategy: inter, ratio: "1:5", placement: middle}', layers)
    )
    assert spec.pattern == pattern
    saved_twice(spec)


def test_the_example_takes_a_mixture_of_experts() -> None:
    moe = "{kind: moe, n_routed: 8, top_k: 1, n_shared: 1, d_expert: 4096}"
    saved_twice(ArchSpec.from_yaml(EXAMPLE.replace("{kind: swiglu, d_ff: 8192}", moe)))


def test_a_saved_design_is_laid_out_as_people_write_it() -> None:
    lines = (
        ArchSpec.from_yaml(EXAMPLE.replace("d_model", "norm_eps: 1.0e-5\nd_model", 1))
        .to_yaml()
        .splitlines()
    )
    assert lines.pop(4) == "norm_eps: 1.0e-05"
    assert [line.split(":")[0] for line in lines] == [
        line.split(":")[0] for line in EXAMPLE.splitlines()
    ]
    assert lines[1] == "name: inter-1to5-1b"
    assert lines[8] == "swa: {window: 512, sink: 64, rope_theta: 10000.0}"


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a key twice": (PLAIN + "d_model: 64\n", "d_model: given twice (line "),
    "a key of a section twice": (
        "schema: 1\nswa: {window: 4, window: 5}\n",
        "window: given twice (line 2)",
    ),
    "alias bomb": (BOMB, "line 2: aliases (*name) are not allowed"),
    "alias": ("schema: &one 1\nd_model: *one\n", "line 2: aliases (*name) are not allowed"),
    "list": ("- schema\n- 1\n", "a list - a design is a mapping"),
    "text": ("schema\n", "a str - a design is a mapping"),
    "empty": ("", "empty - a design is a mapping"),
    "only a comment": ("# nothing\n", "empty - a design is a mapping"),
    "two documents": (PLAIN + "---\n" + PLAIN, "not YAML - line "),
    "not closed": ("schema: [1\n", "not YAML - line 2: "),
    "not UTF-8": (b"schema: 1\nname: \xff\xfe\n", "not UTF-8 text (byte 16)"),
    "a null byte": ("schema: 1\x00\n", "not YAML - unacceptable character"),
    "nested lists": ("name: " + "[" * 100_000, "nested deeper than 20 levels"),
    "nested mappings": ("name: " + "{a: " * 30 + "1" + "}" * 30, "nested deeper than 20 levels"),
    "python call": (
        "name: !!python/object/apply:os.getcwd []\n",
        "not YAML - line 1: could not determine a constructor for the tag",
    ),
    "python name": (
        "name: !!python/name:os.getcwd\n",
        "not YAML - line 1: could not determine a constructor for the tag",
    ),
    "own tag": (
        "name: !anything x\n",
        "not YAML - line 1: could not determine a constructor for the tag",
    ),
    "an integer of 5,000 digits": (
        PLAIN.replace("d_model: 32", "d_model: " + "9" * 5000),
        "thousands of digits",
    ),
    "an integer of 4,000 digits": (
        PLAIN.replace("d_model: 32", "d_model: " + "9" * 4000),
        "... - must be less than or equal to 131072",
    ),
    "a key that is no text": (PLAIN + "1: 2\n", "1: a key must be text"),
    "text of 2 MB": (PLAIN + "# " + "x" * 2_000_000, "a design may have at most 1,000,000"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_text_that_is_no_design_is_refused_in_one_line(text: str | bytes, said: str) -> None:
    message = complaint(text)
    assert said in message
    assert len(message) < 200


def test_a_file_of_50_mb_is_refused_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)

    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the file was opened")

    for name in ("open", "read_bytes", "read_text"):
        monkeypatch.setattr(Path, name, fail)
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(
        SpecError, match=r"huge\.yaml: 50,000,000 bytes - a design may have at most 1,000,000$"
    ):
        ArchSpec.load(path)


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    bad = {
        tmp_path / "none.yaml": r"none\.yaml: No such file",
        tmp_path: "not a file",
        tmp_path / "bytes.yaml": "not UTF-8",
    }
    for path, said in bad.items():
        with pytest.raises(SpecError, match=said):
            ArchSpec.load(path)


def test_a_file_loads_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "design.yaml"
    path.write_text(PLAIN, "utf-8")
    assert (
        ArchSpec.load(path)
        == ArchSpec.load(str(path))
        == ArchSpec.from_yaml(PLAIN)
        == ArchSpec.from_yaml(PLAIN.encode())
    )


@pytest.mark.parametrize(("text", "value"), [("1e6", 1e6), ("1e-5", 1e-5), ("2.5E+3", 2500.0)])
def test_exponents_without_a_dot_are_numbers(text: str, value: float) -> None:
    assert safe_mapping(f"a: {text}") == {"a": value}


def test_a_name_that_looks_like_a_number_stays_a_name() -> None:
    spec = design("A", name="1e6")
    assert ArchSpec.from_yaml(spec.to_yaml()) == spec
