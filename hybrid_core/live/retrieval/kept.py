"""Finished cells of a checkpoint's map, kept on disk so that a run can be resumed. No torch."""

import hashlib
import json
from pathlib import Path

from hybrid_core.data import data_path, folder, write_whole
from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.live.retrieval.scores import cell
from hybrid_core.results.retrieval import Cell


class Kept:
    """The finished cells of one test of one checkpoint: a file with one cell per line.

    `dropped` says which cells could not be read back and have to be tested again. It is None if all
    could be read.
    """

    def __init__(self, options: CheckpointOptions) -> None:
        self.path = data_path() / "niah" / f"{_digest(options)}.jsonl"
        self.asked = set()
        for length in options.lengths:
            for depth in options.depths:
                self.asked.add((length, depth))
        self.known: dict[tuple[int, float], Cell] = {}
        self.dropped = self._read()

    def _read(self) -> str | None:
        """Add the cells on disk to `known`; returns a line on those that could not be read."""
        try:
            lines = self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            why = f"{self.path} - {error.strerror or error}"
            return f"the kept cells cannot be read and are tested again: {why}"
        n_lost = 0
        for line in lines:
            found = _read_cell(line)
            if found is None:
                n_lost += 1
            else:
                self.known[found.context_len, found.depth] = found
        if not n_lost:
            return None
        damaged = f"{n_lost} of {len(lines)} kept cells were cut or damaged"
        return f"{damaged} and are tested again: {self.path}"

    @property
    def cells(self) -> list[Cell]:
        """The finished cells that this run asks for."""
        return [found for place, found in self.known.items() if place in self.asked]

    def get(self, length: int, depth: float) -> Cell | None:
        return self.known.get((length, depth))

    def add(self, found: Cell) -> None:
        """Keep a cell. Raises NotWritten if it cannot be written; the file is then unchanged."""
        self._read()  # a run on another device may have added some
        self.known[found.context_len, found.depth] = found
        folder(self.path.parent)
        lines = [json.dumps(kept.record()) + "\n" for kept in self.known.values()]
        write_whole(self.path, "".join(lines))


def _digest(options: CheckpointOptions) -> str:
    """A name for one test of one checkpoint.

    It depends on the options that affect an answer, and on the names, sizes and times of the
    checkpoint's files.
    """
    no_question = {"device", "batch_size", "lengths", "depths"}
    question = options.model_dump(mode="json", exclude=no_question)
    files = []
    for file in Path(options.path).iterdir():
        if file.is_file():
            status = file.stat()
            files.append((file.name, status.st_size, status.st_mtime_ns))
    identity = json.dumps([question, sorted(files)])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _read_cell(line: str) -> Cell | None:
    """The cell in a line; None if the line is cut or damaged."""
    try:
        found = json.loads(line)
        return cell(
            int(found["context_len"]),
            float(found["depth"]),
            int(found["correct"]),
            int(found["trials"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
