"""The pages without a browser: what the form holds is the design that was opened, and nothing there
loads torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import link, published
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.runs.store import open_store
from hybrid_core.speed import hardware
from tests.designs import design

ROOT = Path(__file__).resolve().parent.parent
OPENED = (
    "inter-1to5-1b",
    "swa-1to3-1b",
    "intra-1to0-350m",
    "llama-moe-1b",
    "diff-t-1b",
    "diff-m-1b",
    "mamba-3b",
)


def page_of(name: str, folder: str = "pages") -> AppTest:
    """A page that has not run yet."""
    return AppTest.from_file(str(ROOT / folder / f"{name}.py"), default_timeout=600)


def compose(design: ArchSpec) -> AppTest:
    page = page_of("compose")
    page.query_params["design"] = link.encode(design)
    return page.run()


@pytest.mark.parametrize("name", [*OPENED, *published.models()])
def test_a_design_survives_the_form_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    spec = published.resolve(name).replace(name="opened", norm_eps=1e-6)
    page = compose(spec)
    assert not page.exception and not page.error
    assert shown(page) == spec


def shown(page: AppTest) -> ArchSpec:
    """The design on screen."""
    assert not page.exception
    return page.session_state["view"].design


def pressed(page: AppTest, label: str) -> AppTest:
    buttons = [button for button in page.button if button.label == label]
    return buttons[0].click().run()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    return compose(presets.get(presets.FIRST).spec)


def test_compose_names_a_shape_that_kernels_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """state-spaces/mamba#643: an input projection of 514. It is a caption: the design is fine
    here."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    page = compose(design("M", d_model=64, ssm={"d_ssm": 128, "head_dim": 64, "d_state": 128}))
    assert not page.exception and not page.error
    assert sum("514 wide" in caption.value for caption in page.caption) == 1
    # In the open Share menu, Hugging Face and Megatron say it too: they run those kernels.
    page.session_state["share"] = True
    page.run()
    assert sum("Kernel shape" in caption.value for caption in page.caption) == 2
    other = compose(presets.get(presets.FIRST).spec)
    assert not any("causal-conv1d" in caption.value for caption in other.caption)


def test_a_stack_written_as_letters_is_custom_and_one_click_from_its_strategy(
    page: AppTest,
) -> None:
    before = shown(page)
    page.text_input(key="stack.letters").set_value("mmmhmmmammmmm").run()
    assert shown(page).pattern == "MMMHMMMAMMMMM"
    assert page.selectbox(key="form.layers.strategy").value == "custom"
    pressed(page, "Back to inter")
    assert shown(page) == before


def test_the_letters_that_the_stack_has_already_change_nothing(page: AppTest) -> None:
    """A browser sends back what it was told, at times after the design has gone on."""
    before = shown(page)
    page.text_input(key="stack.letters").set_value(before.letters.lower()).run()
    assert shown(page) == before and before.layers.strategy == "inter"


def test_letters_that_break_a_rule_are_said_and_change_nothing(page: AppTest) -> None:
    before = shown(page)
    page.text_input(key="stack.letters").set_value("MMXM").run()
    assert "may hold only" in page.error[0].value
    assert page.text_input(key="stack.letters").value == "MMXM"  # stays, to be corrected
    assert shown(page) == before
    assert page.selectbox(key="form.layers.strategy").value == "inter"


@pytest.mark.parametrize("name", ["compose", "compare"])
def test_a_calibration_that_is_cut_while_a_page_shows_it_is_said_and_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    hardware.keep_calibration(
        hardware.get("cpu_server").model_copy(update={"key": "this_cpu_bf16"})
    )
    page = page_of(name)
    page.query_params.update({"device": "this_cpu_bf16", "with": "llama-1b"})
    page.run()
    assert not page.exception and not page.warning
    (tmp_path / "calibration-this_cpu_bf16.json").write_text("")
    page.run()
    assert not page.exception
    (said,) = page.warning
    assert "cut or damaged" in said.value and "shown for NVIDIA H100" in said.value
    assert page.session_state["view"].hardware == "h100_sxm"
    page.run()
    assert not page.exception and not page.warning  # said once
    if name == "compose":
        assert sum("A calibration is left out" in caption.value for caption in page.caption) == 1


def test_a_data_folder_that_cannot_be_made_is_said_on_every_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "file"))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)
    page = page_of("navigation", folder="web").run()
    assert not page.exception
    said = "".join(caption.value for caption in page.caption)
    assert "File exists" in said and "to a writable folder" in said


def test_undo_and_redo_walk_the_designs(page: AppTest) -> None:
    first = shown(page)
    page.select_slider(key="form.ratio").set_value("1:3").run()
    second = shown(page)
    assert second.layers.ratio == "1:3"
    assert shown(pressed(page, "Undo")) == first
    assert shown(pressed(page, "Redo")) == second
    pressed(page, "Undo")
    page.number_input(key="form.d_model").set_value(1024).run()
    assert next(button for button in page.button if button.label == "Redo").disabled


def test_depth_and_strategy_follow_one_another(page: AppTest) -> None:
    page.text_input(key="stack.letters").set_value("AMAM").run()
    page.number_input(key="form.n_layers").set_value(6).run()
    assert shown(page).pattern == "AMAMMM"
    page.selectbox(key="form.layers.strategy").select("transformer").run()
    page.selectbox(key="form.layers.strategy").select("custom").run()
    assert shown(page).pattern == "AAAAAA"


def test_the_link_carries_the_whole_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    page = page_of("compose")
    page.query_params.update(
        {
            "design": "intra-1to5-1b",
            "context": "32768",
            "device": "rtx_4090",
            "reference": "mamba-1b",
        }
    )
    page.run()
    assert shown(page).name == "intra-1to5-1b"
    assert page.session_state["view"].reference.name == "mamba-1b"
    assert page.session_state["work.context_len"] == 32768
    assert "".join(page.query_params["device"]) == "rtx_4090"
    page.session_state["work.context_len"] = 65536
    page.run()
    assert "".join(page.query_params["context"]) == "65536"


@pytest.mark.slow
def test_no_page_needs_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from streamlit.testing.v1 import AppTest\n"
        "for path in sorted(pathlib.Path('pages').glob('*.py')):\n"
        "    assert not AppTest.from_file(str(path.resolve()), "
        "default_timeout=600).run().exception, path\n"
        "print('torch' in sys.modules)"
    )
    env = os.environ | {"HYBRID_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


ENERGY = {
    "now": (
        {
            "meter": "fake",
            "note": "",
            "error": 0.05,
            "idle": {"watts": 71.4, "seconds": 2.0, "why": None},
            "rows": [
                {
                    "phase": "prefill",
                    "batch_size": 4,
                    "context_len": 512,
                    "joules_per_token": 0.0031,
                    "why": None,
                },
                {
                    "phase": "decode",
                    "batch_size": 4,
                    "context_len": 2048,
                    "joules_per_token": 1.25,
                    "why": None,
                },
            ],
        },
        "1.25 J per token",
        [
            "decode at 2,048 tokens, batch 4",
            "energy, prefill of 512 tokens, batch 4: 3.1 mJ per token",
            "idle power, included above: 71 W",
        ],
    ),
    "an earlier version": (
        {"note": "NVML", "parts": {"decode": {"joules": 4321.0, "seconds": 9.0}}},
        "4,321 J",
        ["energy of the whole decode stretch, cache filling included: not comparable"],
    ),
    "no meter": (
        {
            "meter": None,
            "note": "no energy meter: not an NVIDIA GPU",
            "error": 0.05,
            "idle": None,
            "rows": [],
        },
        "not measured",
        ["no energy meter: not an NVIDIA GPU"],
    ),
    "an earlier version without a meter": (
        {
            "note": "no energy meter: not an NVIDIA GPU",
            "parts": {"decode": {"joules": None, "seconds": 9.0}},
        },
        "not measured",
        ["no energy meter: not an NVIDIA GPU"],
    ),
}


@pytest.mark.parametrize(("part", "figure", "captions"), ENERGY.values(), ids=ENERGY)
def test_the_profile_page_says_what_a_token_takes_and_how_a_prefill_was_cut(
    part: dict[str, object],
    figure: str,
    captions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    store = open_store()
    options = ProfileOptions(device="cpu", state_dtype="fp32").model_dump(mode="json")
    run_id = store.create("profile", presets.get("mamba-1b").spec, options, "cpu")
    store.put_part(run_id, "energy", part)
    timing = {
        "median_s": 1.0,
        "min_s": 1.0,
        "max_s": 1.0,
        "repeats": 3,
        "tokens_per_s": 8.0,
        "predicted_tokens_per_s": 8.0,
    }
    store.put_part(
        run_id,
        "prefill",
        timing | {"batch_size": 4, "prompt_len": 32768, "chunk_tokens": 2048, "shortened": False},
    )
    store.finish(run_id, "done")
    page = page_of("profile").run()
    assert not page.exception
    assert next(metric for metric in page.metric if metric.label == "Energy").value == figure
    written = [caption.value for caption in page.caption]
    assert set(captions) <= set(written)
    assert "measured, 2,048 tokens at a time; 100% of the prediction" in written
    assert "Weights bf16, keys and values bf16, scan states fp32" in written
    layers = page.dataframe[0].value
    # mamba-1b has 13 layers; the parts of a result that cannot be drawn would leave a warning.
    assert len(layers) == 13 and layers["params"].gt(0).all() and not page.warning


def test_the_profile_page_queues_jobs_of_other_kinds_and_shows_profiles_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    store = open_store()
    options = CheckpointOptions(path="somewhere", device="cpu").model_dump(mode="json")
    store.create("checkpoint", presets.get("mamba-1b").spec, options, "cpu")
    store.claim("a lease", "a boot", 1.0)
    page = page_of("profile").run()
    assert not page.exception
    assert any("No profile yet" in info.value for info in page.info)


def retrieval(tab: str) -> AppTest:
    page = page_of("retrieval")
    page.session_state["retrieval.tab"] = tab
    return page.run()


def press(page: AppTest, button: str) -> str:
    """Press a button; the error that the page then shows."""
    pressed(page, button)
    assert not page.exception
    return "".join(error.value for error in page.error)


def test_bad_input_of_the_retrieval_page_is_said_and_nothing_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    page = retrieval("Needle in a haystack")
    page.number_input("niah.cpu.length").set_value(130)
    assert "trained\\_len" in press(page, "Start needle test")
    page = retrieval("Probes")
    page.text_area("probes.pasted").set_value("too short")
    assert "9 bytes" in press(page, "Start probes")
    page = retrieval("Checkpoint")
    page.text_input[0].set_value(str(tmp_path))
    page.run()
    assert "config\\.json\\: No such file" in press(page, "Start checkpoint test")
    assert open_store().list() == []


def test_the_retrieval_page_draws_what_the_store_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    store, spec = open_store(), presets.get("mamba-1b").spec
    found = {
        "depths": [0.0, 1.0],
        "lengths": [128],
        "trained_len": None,
        "trials": 4,
        "cells": [cell(128, d, 1, 4).record() for d in (0.0, 1.0)],
    }
    curve = [
        {
            "tokens": 10,
            "accuracy": 0.1,
            "length": 24,
            "stage": "echoes",
            "loss": 4.0,
            "seconds": 1.0,
        }
    ]
    training = {
        "tokens": 10,
        "accuracy": 0.1,
        "length": 24,
        "tokens_to_learn": None,
        "curve": curve,
        "ended": "time",
    }
    rows = [{"n_pairs": 2, "accuracy": 0.5, "answers": 8}]
    short = [{"n_pairs": 4, "measured": 0, "of": 16, "why": "the budget of 5 s was used up"}]
    missing = {
        "not_measured": [
            {"context_len": 160, "measured": 1, "of": 4, "why": "the budget of 5 s was used up"}
        ]
    }
    stored = {
        "niah": (
            NiahOptions(),
            {"training": training, "map": found | {"trained_len": 128} | missing},
        ),
        "probes": (
            ProbeOptions(),
            {
                "recall": {
                    "trained_pairs": 2,
                    "rows": rows,
                    "training": training,
                    "not_measured": short,
                }
            },
        ),
        "checkpoint": (
            CheckpointOptions(path="m"),
            {"checkpoint": {"not_run": [{"context_len": 960, "why": "too long"}]}, "map": found},
        ),
    }
    for kind, (options, parts) in stored.items():
        for status in ("cancelled", "failed"):
            run_id = store.create(kind, spec, options.model_dump(mode="json"), "cpu")
            for name, data in parts.items():
                store.put_part(run_id, name, data)
            store.finish(
                run_id, status, "out of memory: try a smaller batch" if status == "failed" else None
            )
    for tab, n_charts, said in (
        ("Needle in a haystack", 3, "not learnt"),
        ("Probes", 1, "not learnt"),
        ("Checkpoint", 1, "960 tokens not run"),
    ):
        page = retrieval(tab)
        assert not page.exception
        assert "out of memory" in page.error[0].value
        assert said in page.warning[0].value
        assert sum(
            "incomplete" in warning.value and "5 s was used up" in warning.value
            for warning in page.warning
        ) == (tab != "Checkpoint")
        assert len(page.get("bidi_component")) == n_charts
