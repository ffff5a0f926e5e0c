"""Commands on stored runs: runs, report."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from hybrid_core.cli.shared import Command, print_json, write
from hybrid_core.report.foreign import unreadable
from hybrid_core.report.text.runs import run_table, runs_table
from hybrid_core.runs.jobs import Dispatcher, cancel
from hybrid_core.runs.store import Run, RunStore, open_store
from hybrid_core.validation import SpecError, short

RECORDED = (
    "id",
    "kind",
    "name",
    "status",
    "error",
    "device",
    "created_at",
    "started_at",
    "ended_at",
    "options",
    "spec_yaml",
    "parts",
)
PAUSE_S = 0.5  # seconds between checks of runs that may be dead
MOST_RUNS = 2**63  # run numbers have 64 bits


def add(command: Command) -> None:
    """Declare the commands."""
    text = "List the runs in the store, or show, delete or cancel one"
    parser = command("runs", _runs, text, as_json=True)
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "show", "delete", "cancel"],
        default="list",
        help="what to do (default: %(default)s)",
    )
    parser.add_argument(
        "id",
        nargs="?",
        type=_run_number,
        help="number of the run, for show, delete and cancel",
    )

    text = "Write a report on one or more runs: a single HTML file that works offline"
    parser = command("report", _report, text)
    parser.add_argument(
        "ids",
        nargs="+",
        type=_run_number,
        metavar="ID",
        help="numbers of the runs",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write, e.g. report.html",
    )


def _run_number(text: str) -> int:
    """Parse the number of a run."""
    number = 0
    if text.isascii() and text.isdigit():
        number = int(text)
    if not 0 < number < MOST_RUNS:
        raise argparse.ArgumentTypeError(
            f"{short(text)} - must be the number of a run, as listed by `runs`"
        )
    return number


def record(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {key: getattr(run, key) for key in RECORDED}


def _runs(arguments: argparse.Namespace) -> None:
    store = open_store()
    dispatcher = Dispatcher(store)
    _end_the_dead(dispatcher)
    if arguments.action == "list":
        _list(store, arguments.json)
        return
    if arguments.id is None:
        raise SpecError(f"id: missing - `runs {arguments.action}` needs the number of a run")
    if arguments.action == "show":
        _show(store.get(arguments.id), arguments.json)
    elif arguments.action == "cancel":
        if not cancel(arguments.id, store):
            raise SpecError(f"id: {arguments.id} - this run has already ended")
        dispatcher.start_next()
    else:
        _delete(store, arguments.id)


def _list(store: RunStore, as_json: bool) -> None:
    found = store.list()
    if as_json:
        print_json([record(run) for run in found])
    else:
        print(runs_table(found))


def _show(run: Run, as_json: bool) -> None:
    if as_json:
        print_json(record(run))
    else:
        print(run_table(_readable(run)))


def _delete(store: RunStore, run_id: int) -> None:
    try:
        store.delete(run_id)
    except ValueError as error:  # it is active
        raise SpecError(str(error)) from None


def _report(arguments: argparse.Namespace) -> None:
    from hybrid_core.report import html  # imported late, because it imports plotly

    store = open_store()
    chosen = dict.fromkeys(arguments.ids)  # each one once, in the given order
    shown = [_readable(store.get(run_id)) for run_id in chosen]
    page = html.report(shown)
    write(arguments.output, page)
    print(arguments.output)


def _end_the_dead(dispatcher: Dispatcher) -> None:
    """End runs whose worker is gone. This takes a while for runs from another machine, or from
    before this machine was restarted."""
    dispatcher.end_the_dead()
    announced: set[int] = set()
    unsure = dispatcher.unsure()
    while unsure:
        for run in unsure:
            if run.id not in announced:
                announced.add(run.id)
                _announce(run)
        time.sleep(PAUSE_S)
        dispatcher.end_the_dead()
        unsure = dispatcher.unsure()


def _announce(run: Run) -> None:
    print(
        f"run {run.id}: started on {run.host} before this machine booted; "
        "checking whether it is still active",
        file=sys.stderr,
    )


def _readable(run: Run) -> Run:
    """The run itself. Raises SpecError if this version cannot show it."""
    reason = unreadable(run)
    if reason:
        raise SpecError(f"run {run.id} - {reason}; `runs show {run.id} --json` prints its record")
    return run
