"""The notebooks run as they stand."""

import json
from pathlib import Path

import pytest

from tests import notebooks
from tests.app_environment import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))
    ran = notebooks.run(path)
    kept = json.loads(path.read_text("utf-8"))
    assert len(ran["cells"]) == len(kept["cells"])
    # Exact figures print the same anywhere; measured ones do not.
    if path.stem == "question_to_design":
        assert ran == kept


def test_there_are_two() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["profile_two_designs", "question_to_design"]
