"""The results of a benchmark on disk, written after every step, so that a crash loses little.

A record is one JSON file with `command` and `date` of the last run, `environment` (device, driver
and packages), `why` if that run could not start, and `steps`. Each step has a `state`:

- `done`, with the step's `result` and the `seconds` that it took;
- `failed`, with a one-line `why` and without a result;
- `started`: the process ended, or was stopped, during the step.

A run with the same record keeps the steps that are done. It retries the others, starting with those
that no run has tried.
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
    """The record has measurements of another device."""


class Record:
    """The record in `path`, which need not exist.

    Raises AnotherDevice if it was started on a device with a different name.
    """

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
                f"{path} was measured on {known}, this is {name}: use another folder"
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
        """Run the steps that are not done, and return whether all are done now.

        A step that raises is recorded as failed. The next step runs as long as `go_on()` is true.
        """
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
        """The steps that are not done: first those that no run has tried."""
        waiting = [name for name in names if not self.is_done(name)]
        return sorted(waiting, key=lambda name: name in self.steps)

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
            seconds = round(time.monotonic() - started, 2)
            self._note(name, {"state": "done", "seconds": seconds, "result": result})

    def _note(self, name: str, entry: Result) -> None:
        self.steps[name] = entry
        self._write()

    def _write(self) -> None:
        folder(self.path.parent)
        write_whole(self.path, json.dumps(self.header | {"steps": self.steps}, indent=1))


def kept(path: Path) -> Result:
    """The contents of a record, or nothing if there is none.

    A file that is not a complete record is renamed, with a warning.
    """
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
    print(f"{path} is not a readable record: renamed to {aside.name}, starting anew", flush=True)
    return {}


def in_one_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def results(path: Path) -> dict[str, Result]:
    """The results of the steps that are done, by name; empty if there is no record."""
    found = {}
    for name, step in kept(path).get("steps", {}).items():
        if step["state"] == "done":
            found[name] = step["result"]
    return found
