"""Runs notebooks without Jupyter: the code cells in order, in one namespace, what they print kept.

`python -m tests.notebooks examples/*.ipynb` writes the outputs into the files."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run(path: Path) -> dict[str, Any]:
    """The notebook with the outputs of this run. What a cell raises is raised."""
    notebook: dict[str, Any] = json.loads(path.read_text("utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), namespace)
        cell["execution_count"] = number
        cell["outputs"] = _stream(printed.getvalue())
    return notebook


def _stream(text: str) -> list[dict[str, Any]]:
    if not text:
        return []
    lines = text.splitlines(keepends=True)
    return [{"name": "stdout", "output_type": "stream", "text": lines}]


def main(paths: list[str]) -> None:
    """Run each notebook and write it back."""
    for path in map(Path, paths):
        notebook = run(path)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
