"""A whole needle test: small budgets say so, cancel keeps cells, too long is refused."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hybrid_core.cli.main import main
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.live.retrieval.niah import Niah, niah, unfinished, verdict
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions
from hybrid_core.live.retrieval.trainer import Training
from hybrid_core.report.html import command
from hybrid_core.results.retrieval import Scores
from hybrid_core.runs.jobs import cancel, submit
from hybrid_core.runs.store import RunStore
from tests.designs import design
from tests.live.watch import Watch, timed
from tests.runs.test_runs import ended, until

QUICK = NiahOptions(device="cpu", budget_s=3, trials=2, trained_len=128)
NIAH = "hybrid_core.live.retrieval.niah"
Parts = dict[str, dict[str, Any]]


def run_parts(options: NiahOptions) -> Parts:
    parts: Parts = {}
    niah(design("AM"), options, parts.__setitem__, lambda fraction, message: None)
    return parts


def test_a_budget_too_small_to_learn_says_so_and_asks_nothing_that_was_not_trained() -> None:
    parts = run_parts(QUICK)
    assert set(parts) == {"environment", "proxy", "training", "map", "scores", "verdict"}
    assert parts["verdict"] | {"text": ""} == {"learnt": False, "finding": False, "text": ""}
    assert "budget ended" in parts["verdict"]["text"]
    assert parts["training"]["curve"]
    assert parts["training"]["ended"]
    lengths = parts["map"]["lengths"]
    reached = parts["training"]["length"]
    asked = {cell["context_len"] for cell in parts["map"]["cells"]}
    assert lengths[0] in asked  # there is a result
    assert max(asked) <= max(lengths[0], reached)
    whys = {row["context_len"]: row["why"] for row in parts["map"]["not_measured"]}
    for length in lengths[1:]:
        if length > reached:
            assert f"only got to contexts of {reached} tokens" in whys[length]


def test_a_step_has_four_contexts_on_a_cpu_and_512_tokens_at_least() -> None:
    scale = NiahOptions(trials=7).scale("cpu")
    assert (scale.d_model, scale.trained_len, scale.trials) == (64, 512, 7)
    assert [scale.step_tokens(length) for length in (24, 128, 512)] == [512, 512, 2048]


def test_a_proxy_is_finished_with_tokens_enough_or_with_its_task_learnt() -> None:
    few = {"planned_tokens": 1_350_000, "tokens": 899_999}
    assert unfinished(Training(**few, length=128, accuracy=0.9), 128)
    assert not unfinished(Training(**few, length=128, accuracy=0.91), 128)
    assert unfinished(Training(**few, length=96, accuracy=0.91), 128)
    assert not unfinished(Training(1_350_000, tokens=900_000, length=96, accuracy=0.0), 128)


def test_a_design_that_does_not_learn_in_its_plan_is_a_finding() -> None:
    found = Scores(at_trained_len=0.2, effective_context=0, trained_len=128)
    training = Training(2_000_000, tokens=2_000_000, length=128, ended="planned tokens used")
    said = verdict(found, training)
    assert said.finding
    assert not said.learnt


def test_a_map_without_its_trained_length_is_no_finding() -> None:
    found = Scores(at_trained_len=None, effective_context=0, trained_len=128)
    training = Training(2_000_000, tokens=2_000_000, length=128, tokens_to_learn=5)
    said = verdict(found, training)
    assert said.learnt
    assert not said.finding
    assert "before the trained length of 128 tokens was tested" in said.text


def test_what_cannot_fit_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_bytes", lambda _: 2**20)
    with pytest.raises(DoesNotFit, match="needs"):
        run_parts(QUICK)


# ---------------------------------------------------------------- the command, and jobs


@pytest.mark.usefixtures("store", "jobs_in_this_process")
def test_the_command_runs_a_job_and_prints_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "niah inter-1to5-1b --budget 1 --trials 2 --trained-len 128 --device cpu --json"
    assert main(asked.split()) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["kind"], record["status"]) == ("niah", "done")
    assert record["options"]["trained_len"] == 128
    assert main(["runs", "show", str(record["id"])]) == 0
    assert "budget ended" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["niah"], "either a design or --checkpoint"),
        (["niah", "llama-1b", "--checkpoint", "x"], "either a design or --checkpoint"),
        (["niah", "llama-1b", "--trained-len", "100"], "trained_len: 100"),
        (["niah", "llama-1b", "--budget", "0"], "budget_s: 0"),
        (["niah", "--checkpoint", "/nowhere"], "config.json: No such file"),
        (["niah", "--checkpoint", "x", "--lengths", "1k"], "lengths: '1k'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert len(said.splitlines()) == 1


def test_cancel_keeps_what_was_found(store: RunStore) -> None:
    long = NiahOptions(device="cpu", budget_s=300, trained_len=128)
    run_id = submit(design("A"), long, store)
    until(store, run_id, lambda run: "training" in run.parts)
    assert cancel(run_id, store)
    run = until(store, run_id, ended)
    assert run.status == "cancelled"
    assert run.parts["training"]["curve"]


def test_cancel_during_the_map_keeps_the_finished_cells(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # trains so small a proxy fastest
    # Three rows follow the training: 128, 192 and 256 tokens. A row is long enough that the job
    # still works on the next when the first is seen, and short enough that the budget cuts none.
    slow_map = NiahOptions(device="cpu", budget_s=15, d_model=32, trained_len=256, trials=1000)
    run_id = submit(design("A"), slow_map, store)
    seen = until(store, run_id, lambda run: run.parts.get("map", {}).get("cells"))
    assert cancel(run_id, store)
    kept = store.get(run_id)
    assert kept.status == "cancelled"
    assert "verdict" not in kept.parts
    cells = kept.parts["map"]["cells"]
    cells_seen = seen.parts["map"]["cells"]
    assert cells[: len(cells_seen)] == cells_seen
    lengths = {cell["context_len"] for cell in cells}
    whole_rows = {(length, tenths / 10) for length in lengths for tenths in range(11)}
    assert {(cell["context_len"], cell["depth"]) for cell in cells} == whole_rows
    assert all(cell["trials"] == 1000 for cell in cells)


# ---------------------------------------------------------------- the budget


def mapped(watch: Watch, budget_s: float, **asked: Any) -> Parts:
    """A run in which nothing counts as unfinished, against the clock of `watch`, which does not
    move by itself."""
    parts: Parts = {}
    options = NiahOptions(
        device="cpu",
        budget_s=budget_s,
        d_model=32,
        trained_len=128,
        **asked,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{NIAH}.ENOUGH_TOKENS", 0)
        patch.setattr(f"{NIAH}.EVAL_TOKENS", 128)  # one haystack a piece
        run = Niah(
            design("A"),
            options,
            parts.__setitem__,
            lambda fraction, message: None,
            lambda: watch.now,
        )
        run.run()
    return parts


def asked_of(parts: Parts) -> set[tuple[int, int]]:
    """The lengths of a map's cells, each with its number of trials."""
    return {(cell["context_len"], cell["trials"]) for cell in parts["map"]["cells"]}


def test_a_map_ends_with_its_budget_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 100 s: 5 steps of 20 s until 85 s are over; the map has nothing left, and asks one haystack of
    # 7 s.
    parts = mapped(timed(monkeypatch, 20, 7), 100, trials=3)
    assert parts["training"]["ended"] == "time"
    assert parts["training"]["seconds"] == 100
    assert asked_of(parts) == {(128, 1)}
    assert parts["map"]["cells"][0]["haystack_variance"] is None
    missing = []
    for row in parts["map"]["not_measured"]:
        missing.append((row["context_len"], row["measured"], row["of"]))
        assert row["why"] == "the budget of 100 s was used up"
    assert missing == [(128, 1, 3), (160, 0, 3), (192, 0, 3), (224, 0, 3), (256, 0, 3)]
    assert parts["scores"]["seconds"] == 107  # one piece over


def test_a_row_that_the_budget_ends_in_has_the_trials_that_were_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 40 s, 34 of them for training, by a second a step; then a second a haystack: four of 128
    # tokens, two of 160.
    parts = mapped(timed(monkeypatch, 1, 1), 40, trials=4)
    assert parts["training"]["steps"] == 34
    assert asked_of(parts) == {(128, 4), (160, 2)}
    whole = mapped(timed(monkeypatch, 1, 0), 40, trials=4)
    assert whole["map"]["not_measured"] == []
    assert len(whole["map"]["cells"]) == 5 * 11
    assert parts["map"]["cells"][:11] == whole["map"]["cells"][:11]


def test_the_trained_length_is_asked_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{NIAH}.CONTEXTS", (0.75, 0.875, 1.0, 1.25))
    parts = mapped(timed(monkeypatch, 20, 7), 110, trials=1)  # 100 s of steps, then two haystacks
    assert [cell["context_len"] for cell in parts["map"]["cells"][::11]] == [112, 128]


# ---------------------------------------------------------------- what repeats a run


@pytest.mark.parametrize(
    ("kind", "options_of_kind"),
    [("niah", NiahOptions), ("probes", ProbeOptions)],
)
def test_a_report_holds_the_map_and_the_command_that_repeats_it(
    store: RunStore, tmp_path: Path, kind: str, options_of_kind: type[NiahOptions]
) -> None:
    options = options_of_kind.make(device="cpu", budget_s=3, trials=2, trained_len=128)
    run_id = store.create(kind, design("AM"), options.model_dump(mode="json"), "cpu")
    if kind == "niah":
        for name, data in run_parts(options).items():
            store.put_part(run_id, name, data)
    store.finish(run_id, "done")
    assert main(["report", str(run_id), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    repeats = (
        f"python -m hybrid_core {kind} design.yaml --device cpu --budget 3.0 --seed 0 "
        "--trained-len 128 --trials 2"
    )
    assert repeats in page
    cells = store.get(run_id).parts.get("map", {}).get("cells")
    assert ("depth of the needle" in page) == bool(cells)


def words_given(store: RunStore, kind: str, options: Any) -> dict[str, str]:
    """Each word of the command that repeats a run, with the word after it."""
    run_id = store.create(kind, design("AM"), options.model_dump(mode="json"), "cpu")
    return dict(pairwise(shlex.split(command(store.get(run_id)))))


def test_the_command_that_repeats_a_run_asks_what_the_run_asked(
    store: RunStore, tmp_path: Path
) -> None:
    text = str(tmp_path / "a text.txt")
    folder = str(tmp_path / "a model")
    asked = CheckpointOptions(path=folder, haystack_path=text, lengths=(128, 256), device="cpu")
    given = words_given(store, "checkpoint", asked)
    assert given["--haystack"] == text
    assert given["--checkpoint"] == folder
    assert given["--lengths"] == "128,256"
    given = words_given(store, "probes", ProbeOptions(text_path=text, device="cpu"))
    assert given["--text"] == text
