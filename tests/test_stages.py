"""`make test` runs every stage, names those that failed in its last line, and exits as the first of
them did."""

import subprocess
from pathlib import Path

from tests.app_environment import ROOT

STAGES = ("style", "types", "imports", "unit", "slow", "browser")


def ran(place: Path, **codes: int) -> tuple[int, list[str], str]:
    """Exit code, the programs that were called, and the last line, where a program exits with the
    code given for its name."""
    log = place / "log"
    bin_ = place / "venv" / "bin"
    bin_.mkdir(parents=True)
    for name in ("ruff", "mypy", "lint-imports", "pytest"):
        program = bin_ / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{log}"\nexit {codes.get(name, 0)}\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["sh", "tools/stages.sh", str(place / "venv"), *STAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines(), done.stdout.splitlines()[-1]


def test_all_stages_run_and_pass(tmp_path: Path) -> None:
    code, calls, last = ran(tmp_path)
    assert (code, last) == (0, "passed: style types imports unit slow browser")
    assert [call.split()[0] for call in calls] == [
        "ruff",
        "ruff",
        "mypy",
        "lint-imports",
        "pytest",
        "pytest",
        "pytest",
    ]
    assert [call.split(" -n ")[0] for call in calls[-3:]] == [
        "pytest -m not slow and not e2e",
        "pytest -m slow",
        "pytest tests/e2e -m e2e",
    ]


def test_stages_after_a_failed_one_run_too_and_the_first_gives_the_exit_code(
    tmp_path: Path,
) -> None:
    code, calls, last = ran(tmp_path, mypy=3, pytest=1)
    assert len(calls) == 7
    assert (code, last) == (
        3,
        "failed: types (exit code 3), unit (exit code 1), slow (exit code 1), "
        "browser (exit code 1)",
    )


def test_a_stage_that_does_not_exist_is_an_error() -> None:
    done = subprocess.run(
        ["sh", "tools/stages.sh", ".venv", "unti"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "failed: unti (exit code 2)")
