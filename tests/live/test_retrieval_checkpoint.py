"""The paper's protocol on a checkpoint that the test makes and saves."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hybrid_core.cli.main import main
from hybrid_core.data import data_path
from hybrid_core.live.profiling import device
from hybrid_core.live.profiling.job import DoesNotFit
from hybrid_core.live.retrieval import checkpoint as protocol
from hybrid_core.live.retrieval.checkpoint import batches, checkpoint, n_right
from hybrid_core.live.retrieval.kept import Kept
from hybrid_core.live.retrieval.options import PAPER_LENGTHS, CheckpointOptions
from hybrid_core.live.retrieval.prompts import CITIES, NOISE, Haystack, Needle, Prompt, Protocol
from hybrid_core.runs.store import open_store
from hybrid_core.validation import SpecError
from tests.checkpoints import save_tiny_llama
from tests.designs import design

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))


def options(folder: Path, **changes: Any) -> CheckpointOptions:
    fields = {
        "path": str(folder),
        "device": "cpu",
        "dtype": "fp32",
        "lengths": (128, 192),
        "depths": (0.0, 0.5, 1.0),
        "trials": 3,
    }
    return CheckpointOptions.make(**fields | changes)


def run(asked: CheckpointOptions) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    checkpoint(asked.design(), asked, parts.__setitem__, lambda fraction, message: None)
    return parts


def tokenizer_of(folder: Path) -> Any:
    return protocol.load(str(folder), torch.float32, CPU)[0]


def test_the_papers_lengths_depths_and_trials_are_the_defaults() -> None:
    asked = CheckpointOptions.make(path="x")
    assert asked.lengths[:2] == (960, 1984)
    assert asked.lengths[-1] == 16320
    assert len(asked.lengths) == 16
    assert asked.lengths == PAPER_LENGTHS
    assert asked.depths == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert asked.trials == 100


def test_the_prompt_is_the_papers_word_for_word(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    asked = options(folder, lengths=(100,))
    for depth in asked.depths:
        (prompt, *_) = Protocol(tokenizer, asked, NOISE).prompts(100, depth)
        text = "".join(tokenizer.convert_ids_to_tokens(list(prompt.ids)))
        found = re.fullmatch(
            r"(?s)<context>\n(.*)\n</context>\n\n"
            r"What is the special magic (\w+) number\?\n\nThe special magic (\w+) number is:",
            text,
        )
        assert found
        context, city, again = found.groups()
        assert city == again
        assert city in CITIES
        assert 10**6 <= int(prompt.number) < 10**7
        needle = f"The special magic {city} number is: {prompt.number}"
        assert context.count(needle) == 1
        assert len(tokenizer.encode(context, add_special_tokens=False)) == 100
        before, after = context.split(needle)
        assert depth == 1 or before.rstrip(" ").endswith(".") or not before.strip()
        if depth == 0:
            assert not before.strip()
        if depth == 1:
            assert not after


def test_more_keys_are_more_needles_of_other_cities(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    asked = options(folder, task="niah_multikey")
    (prompt, *_) = Protocol(tokenizer, asked, NOISE).prompts(192, 0.5)
    text = "".join(tokenizer.convert_ids_to_tokens(list(prompt.ids)))
    cities = re.findall(r"special magic (\w+) number is: \d{7}", text)
    assert len(cities) == len(set(cities)) == 4


def test_a_seed_fixes_the_trials(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    one, same, other = (
        Protocol(tokenizer, options(folder, seed=seed), NOISE).prompts(128, 0.5)
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_needles_stand_at_their_depth_at_the_end_of_a_sentence(folder: Path) -> None:
    haystack = Haystack(tokenizer_of(folder), NOISE, 400)
    for depth in (0.0, 0.3, 0.7, 1.0):
        ids = haystack.with_needles(300, [Needle(depth, [-7, -7, -7])])
        assert len(ids) == 300
        at = ids.index(-7)
        assert ids[:at] + ids[at + 3 :] == haystack.ids[:297]
        assert 0 <= depth * 297 - at < 15
        assert at in haystack.ends or depth == 1
    with pytest.raises(ValueError, match="shorter than its needles"):
        haystack.with_needles(2, [Needle(0.5, [-7, -7, -7])])


def test_batches_hold_prompts_of_one_length_and_lose_none() -> None:
    draw = random.Random(0)
    prompts = []
    for i in range(50):
        ids = (0,) * draw.randint(5, 8)
        prompts.append(Prompt(ids, str(i)))
    groups = list(batches(prompts, 4))
    assert sorted(prompt for group in groups for prompt in group) == sorted(prompts)
    for group in groups:
        lengths = {len(prompt.ids) for prompt in group}
        assert len(group) <= 4
        assert len(lengths) == 1


def test_an_oracle_is_right_and_an_echo_of_the_city_is_not(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    prompts = Protocol(tokenizer, options(folder), NOISE).prompts(128, 0.5)

    def answer(reads: bool) -> Any:
        def generate(input_ids: torch.Tensor, **how: Any) -> torch.Tensor:
            assert how["max_new_tokens"] == 20 and not how["do_sample"]
            rows = []
            for row in input_ids.tolist():
                said = " special magic"
                if reads:
                    text = "".join(tokenizer.convert_ids_to_tokens(row))
                    said = re.findall(r"\d{7}", text)[0]
                rows.append(row + tokenizer.encode(said, add_special_tokens=False))
            return torch.tensor(rows)

        return SimpleNamespace(generate=generate)

    assert n_right(answer(True), tokenizer, prompts, 2, CPU) == 3
    assert n_right(answer(False), tokenizer, prompts, 2, CPU) == 0


def test_a_run_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options(folder)
    counted: list[int] = []

    def cut_short(*given: Any) -> int:
        if len(counted) == 4:
            raise KeyboardInterrupt
        counted.append(1)
        return n_right(*given)

    monkeypatch.setattr(protocol, "n_right", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    monkeypatch.setattr(protocol, "n_right", n_right)
    parts = run(asked)
    assert parts["checkpoint"]["resumed_cells"] == 4
    cells = parts["map"]["cells"]
    places = [(cell["context_len"], cell["depth"]) for cell in cells]
    assert places == [(128, 0.0), (128, 0.5), (128, 1.0), (192, 0.0), (192, 0.5), (192, 1.0)]
    for cell in cells:
        assert (cell["trials"], cell["correct"]) == (3, 0)  # untrained: it cannot know a number
    assert run(options(folder, seed=1))["checkpoint"]["resumed_cells"] == 0


def test_cells_of_other_lengths_are_kept_but_not_in_this_map(folder: Path) -> None:
    run(options(folder))
    parts = run(options(folder, lengths=(192,)))
    assert parts["checkpoint"]["resumed_cells"] == 3
    assert [cell["context_len"] for cell in parts["map"]["cells"]] == [192, 192, 192]
    assert len(Kept(options(folder)).cells) == 6


def test_a_cell_that_was_cut_is_asked_again_and_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(folder)
    whole = run(asked)["map"]["cells"]
    (kept,) = (data_path() / "niah").iterdir()
    lines = kept.read_text().splitlines()
    cut = lines[4][:30]  # without its end, as a full disk leaves it
    kept.write_text("\n".join([*lines[:4], "[]", cut]))
    parts = run(asked)
    assert parts["map"]["cells"] == whole
    assert parts["checkpoint"]["resumed_cells"] == 4
    assert parts["checkpoint"]["dropped"].startswith("2 of 6 kept cells were cut")
    again = run(asked)["checkpoint"]
    assert (again["resumed_cells"], again["dropped"]) == (6, None)
    store = open_store()
    run_id = store.create("checkpoint", design("A"), asked.model_dump(mode="json"), "cpu")
    store.put_part(run_id, "checkpoint", parts["checkpoint"])
    assert main(["runs", "show", str(run_id)]) == 0
    assert parts["checkpoint"]["dropped"] in capsys.readouterr().out


def test_what_is_missing_or_unknown_gets_one_line(folder: Path, tmp_path: Path) -> None:
    def complaint(path: Path) -> str:
        with pytest.raises(SpecError) as error:
            run(options(path))
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert "config.json: No such file" in complaint(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert "no readable tokenizer" in complaint(bare)
    config = json.loads((folder / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"model_type": "novel"}))
    assert "novel" in complaint(bare)


def test_lengths_over_the_memory_are_refused_before_they_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(folder, lengths=(128, 2**20), depths=(0.5,), trials=1)
    monkeypatch.setattr(device, "available_bytes", lambda _: 2**26)
    parts = run(asked)
    assert [row["context_len"] for row in parts["checkpoint"]["not_run"]] == [2**20]
    assert [c["context_len"] for c in parts["map"]["cells"]] == [128]
    monkeypatch.setattr(device, "available_bytes", lambda _: 2**12)
    with pytest.raises(DoesNotFit, match="needs"):
        run(asked)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_the_command_runs_the_protocol_as_a_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "--lengths 128 --trials 2 --dtype fp32 --device cpu --task niah_multikey --json"
    assert main(["niah", "--checkpoint", str(folder), *asked.split()]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["kind"], record["status"]) == ("checkpoint", "done")
    assert record["name"] == folder.name
    assert len(record["parts"]["map"]["cells"]) == 11
    assert main(["runs", "show", str(record["id"])]) == 0
    assert "niah_multikey after the paper's Appendix K" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_waits_for_a_process_that_runs_the_protocol(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "--lengths 128 --trials 2 --dtype fp32 --device cpu --json"
    assert main(["niah", "--checkpoint", str(folder), *asked.split()]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "done"
    assert len(record["parts"]["map"]["cells"]) == 11
