"""The parts of pages: what they draw, say and offer."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from streamlit.testing.v1 import AppTest

from hybrid_core.design import presets
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.runs.store import open_store
from pages.parts import notes, pictures
from pages.parts.design import plain

ROOT = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))


def opened(name: str, **query: str) -> AppTest:
    """A page as a visitor with this link finds it."""
    page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=600)
    page.query_params.update(query)
    page.run()
    assert not page.exception
    return page


# ---------------------------------------------------------------- pictures


def intra_mixer() -> IntraMixer:
    """The block of the paper's best: group norm, no scalar, attention minus Mamba, values and
    projections of their own."""
    stack = presets.get("intra-1to5-1b").spec.stack
    return next(layer.mixer for layer in stack if isinstance(layer.mixer, IntraMixer))


def drawn_block(mixer: IntraMixer) -> ElementTree.Element:
    return ElementTree.fromstring(pictures.intra_block(mixer, "#000"))


def words(svg: ElementTree.Element) -> list[str]:
    return [str(text.text) for text in svg.iter(f"{SVG}text")]


def test_the_papers_intra_hybrid_block_is_drawn_axis_by_axis() -> None:
    svg = drawn_block(intra_mixer())
    branch = ["group norm", "no scalar", "out"]
    assert words(svg) == [
        *["x", "Attention", *branch],
        *["Mamba-2", *branch],
        *["values separate", "-", "no joint out", "y"],
    ]
    # Dashed: the scalar of each branch, and the joint projection.
    boxes = svg.iter(f"{SVG}rect")
    assert sum("stroke-dasharray" in box.attrib for box in boxes) == 3


def test_a_block_with_the_other_choices_shows_each_of_them() -> None:
    mixer = intra_mixer().model_copy(
        update={"norm": "none", "scalar": "diff_t", "fusion": "concat", "value": "shared"}
    )
    svg = drawn_block(mixer.model_copy(update={"out": "joint"}))
    assert words(svg) == [
        *["x", "Attention", "no norm", "no scalar", "no out yet"],
        *["Mamba-2", "no norm", "times λ", "no out yet"],
        *["values shared", "‖", "out", "y"],
    ]


def strip_paths(pattern: str) -> dict[str, str]:
    """The lines of a stack's picture by their colour."""
    picture = pictures.strip(pattern, {"A": "#f00", "M": "#00f"})
    encoded = picture.partition("base64,")[2].rstrip(")")
    svg = ElementTree.fromstring(b64decode(encoded).decode())
    return {path.attrib["stroke"]: path.attrib["d"] for path in svg.iter(f"{SVG}path")}


def test_a_stack_of_few_layers_has_a_cell_a_layer_and_a_deep_one_has_bars() -> None:
    # Ten units per layer, one of them the gap.
    assert strip_paths("MMA") == {"#00f": "M0 8h9M10 8h9", "#f00": "M20 8h9"}
    assert strip_paths("M" * 40 + "A") == {"#00f": "M0 8h400", "#f00": "M400 8h10"}


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("written", "escaped"),
    [
        ("a_b *c*", r"a\_b \*c\*"),
        (":red[x]", r"\:red\[x\]"),
        (":material/bolt:", "\\:\u2060material/bolt\\:"),
        ("$x^2$", r"\$x\^2\$"),
    ],
)
def test_what_a_user_wrote_is_no_markup(written: str, escaped: str) -> None:
    assert plain(written) == escaped


def test_advice_stands_under_the_control_that_it_is_about() -> None:
    """Table 9 has intra-hybrids of the ratios 1:5, 1:1 and 1:0, Table 4 mixtures of experts."""
    said = notes.by_control(advise(presets.get("intra-1to5-1b").spec, 8192))
    assert set(said) == {"ratio", "ffn"}
    (ratio,), (experts,) = said["ratio"], said["ffn"]
    assert "2.720 at 1:1 and 2.712 at 1:0, against 2.728 at 1:5" in ratio.rule.text
    assert experts.rule.text.startswith("Experts")


# ---------------------------------------------------------------- options


def help_of(controls: Any) -> dict[str, str]:
    return {control.label: control.help for control in controls}


def test_the_controls_of_a_profile_say_what_the_flags_say() -> None:
    page = opened("profile")
    numbers = {control.label: control.value for control in page.number_input}
    assert numbers == {"Time budget (s)": 60, "Batch size": 4, "Prompt (tokens)": 512}
    said = help_of(page.number_input) | help_of(page.selectbox)
    assert said["Batch size"] == "Sequences. Default: 4, the paper's"
    assert said["Prompt (tokens)"] == "Tokens of the prompt. Default: 512, the paper's"
    assert said["Weights"] == "Dtype of the weights"
    choices = {control.label: control for control in page.selectbox}
    assert set(choices["Weights"].options) == {"fp32", "bf16", "fp16"}
    assert choices["Weights"].value == "bf16"
    assert choices["Decode steps"].options == ["Auto", "Eager", "Graph", "Compiled"]


def test_the_controls_of_a_proxy_begin_with_the_size_that_its_device_usually_trains() -> None:
    page = opened("retrieval")
    numbers = {control.label: control.value for control in page.number_input}
    assert numbers == {
        "Time budget (s)": 300,
        "Seed": 0,
        "d_model of the proxy": 64,
        "Trained length (tokens)": 512,
        "Trials per cell": 50,
    }
    said = help_of(page.number_input)
    assert said["d_model of the proxy"] == "Width of the proxy. Default: 64 on a CPU, 256 on a GPU"


def test_what_the_controls_hold_is_what_a_profile_is_asked() -> None:
    page = opened("profile")
    page.number_input[0].set_value(90)
    page.number_input[1].set_value(2)
    next(button for button in page.button if button.label == "Start profile").click().run()
    assert not page.exception and not page.error
    (run,) = open_store().list()
    asked = {key: run.options[key] for key in ("budget_s", "batch_size", "prompt_len", "dtype")}
    assert asked == {"budget_s": 90.0, "batch_size": 2, "prompt_len": 512, "dtype": "bf16"}


# ---------------------------------------------------------------- numbers and runs


def test_a_row_of_compare_carries_the_source_of_its_number() -> None:
    page = opened("compare", **{"with": "llama-1b"})
    tables = [part.proto for part in page.get("bidi_component") if "compare" in part.proto.id]
    differ = json.loads(tables[0].json)
    assert differ["columns"] == ["inter-1to5-1b", "llama-1b"]
    rows = {row["name"]: row for row in differ["rows"]}
    cache = rows["cache per sequence at 8K (exact)"]
    # 16 layers x 8192 tokens x 2 x 8 heads x 64 wide x 2 bytes = 256 MiB
    assert cache["values"] == ["43.3 MiB", "256 MiB"]
    assert cache["source"] == "cache"
    assert cache["counts"].startswith("exact: each cache tensor with its real shape and dtype")
    assert rows["n_layers"]["source"] is None and rows["n_layers"]["counts"] == ""


def test_a_run_of_an_unknown_kind_is_named_and_kept() -> None:
    store = open_store()
    spec = presets.get("mamba-1b").spec
    known = store.create("profile", spec, ProfileOptions(device="cpu").model_dump(), "cpu")
    other = store.create("dream", spec, {}, "cpu")
    for run_id in (known, other):
        store.finish(run_id, "done")
    page = AppTest.from_file(str(ROOT / "pages" / "runs.py"), default_timeout=600)
    page.session_state["runs.chosen"] = [known, other]
    page.run()
    assert not page.exception
    (warning,) = page.warning
    assert warning.value.startswith(f"Run {other} cannot be shown")
    assert page.subheader[0].value == f"Run {known}"
    assert len(store.list()) == 2
