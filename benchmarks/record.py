"""What a benchmark has found, step by step, on disk: written after every step, so that nothing that
was measured is lost.

A record is one JSON file: `command` and `date` of the last run, `environment` (what the figures
rest on), `why` where that run could not even begin, and `steps`, each with its `state`:

- `done`, with the step's `result` and the `seconds` that it took;
- `failed`, with `why` in one line: its result, if it had one, is nowhere;
- `started`: the process ended, or was stopped, in the middle of the step.

Opened again, a record keeps what is done and tries the rest once more: first what was never tried.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hybrid_core.data import folder, write_whole

Result = dict[str, Any]
Step = Callable[[], Result]


class AnotherDevice(ValueError):
    """A record cannot go on with figures of another device."""


class Record:
    """The record in `path`, which need not exist. Raises AnotherDevice for one that was begun on a
    device of another name."""

    def __init__(
        self,
        path: Path,
        command: str,
        environment: Result,
    ) -> None:
        self.path = path
        before = kept(path)
        known = before.get("environment", {}).get("name")
        name = environment.get("name")
        if known and name and known != name:
            raise AnotherDevice(
                f"{path} was measured on {known}, this is {name}: give another folder"
            )
        self.steps: dict[str, Result] = before.get("steps", {})
        date = datetime.now(UTC).date().isoformat()
        self.header = {
            "command": command,
            "date": date,
            "environment": environment or before.get("environment", {}),
        }

    def run(
        self,
        steps: dict[str, Step],
        go_on: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Run the steps that are not done. A step that raises is recorded as failed, and the next
        one runs as long as `go_on()` holds. Says whether all the steps given are done now."""
        for name in self._waiting(steps):
            self._run(name, steps[name])
            if not go_on():
                break
        return all(self.is_done(name) for name in steps)

    def is_done(self, name: str) -> bool:
        """Whether a step has a result."""
        return bool(self.steps.get(name, {}).get("state") == "done")

    def cannot_begin(self, why: str) -> None:
        """Record why no step can run."""
        self.header["why"] = why
        self._write()

    def _waiting(self, names: Iterable[str]) -> list[str]:
        """Steps that are not done, those that were never tried before the others."""
        return sorted(
            (name for name in names if not self.is_done(name)), key=lambda name: name in self.steps
        )

    def _run(self, name: str, step: Step) -> None:
        self._note(name, {"state": "started"})
        started = time.monotonic()
        try:
            result = step()
        except Exception as error:
            traceback.print_exc()
            print(f"{name}: failed - {in_one_line(error)}", flush=True)
            self._note(name, {"state": "failed", "why": in_one_line(error)})
        else:
            self._note(
                name,
                {
                    "state": "done",
                    "seconds": round(time.monotonic() - started, 2),
                    "result": result,
                },
            )

    def _note(self, name: str, entry: Result) -> None:
        self.steps[name] = entry
        self._write()

    def _write(self) -> None:
        folder(self.path.parent)
        write_whole(self.path, json.dumps(self.header | {"steps": self.steps}, indent=1))


def kept(path: Path) -> Result:
    """What a record holds; nothing of one that is cut or no record, which is put aside with a
    word."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict) and isinstance(found.get("steps", {}), dict):
            return found
    except ValueError:
        pass
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    print(f"{path} is no record that can be read: kept as {aside.name}, and begun anew", flush=True)
    return {}


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def results(path: Path) -> dict[str, Result]:
    """The results of the steps that a record says are done, by the steps' names; none where there
    is no record."""
    steps = kept(path).get("steps", {})
    return {name: step["result"] for name, step in steps.items() if step["state"] == "done"}
