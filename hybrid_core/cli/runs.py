"""Commands on what was measured: runs, report."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from hybrid_core.cli.shared import Command, print_json, write
from hybrid_core.report.foreign import unreadable
from hybrid_core.report.text.runs import run_table, runs_table
from hybrid_core.runs.jobs import Dispatcher, cancel
from hybrid_core.runs.store import Run, open_store
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
MOST_RUNS = 2**63  # a store's numbers have 64 bits


def add(command: Command) -> None:
    """Declare the commands."""
    parser = command("runs", runs, "The runs kept so far", as_json=True)
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "show", "delete", "cancel"],
        default="list",
        help="default: list",
    )
    parser.add_argument(
        "id",
        nargs="?",
        type=run_number,
        help="the run's number, for show, delete and cancel",
    )

    text = "Write one HTML file, readable offline, of one or more runs"
    parser = command("report", report, text)
    parser.add_argument(
        "ids",
        nargs="+",
        type=run_number,
        metavar="ID",
        help="run numbers",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write, e.g. report.html",
    )


def run_number(text: str) -> int:
    """A number that a store may give to a run."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < MOST_RUNS:
        raise argparse.ArgumentTypeError(
            f"{short(text)} - must be a run's number, as `runs` lists them"
        )
    return number


def record(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {key: getattr(run, key) for key in RECORDED}


def runs(arguments: argparse.Namespace) -> None:
    """`runs`: list them all, or show, delete or cancel one."""
    store = open_store()
    dispatcher = Dispatcher(store)
    _end_the_dead(dispatcher)
    if arguments.action == "list":
        found = store.list()
        if arguments.json:
            print_json([record(run) for run in found])
        else:
            print(runs_table(found))
        return
    if arguments.id is None:
        raise SpecError(f"id: missing - `runs {arguments.action}` needs a run's number")
    if arguments.action == "show":
        run = store.get(arguments.id)
        if arguments.json:
            print_json(record(run))
        else:
            print(run_table(_readable(run)))
    elif arguments.action == "cancel":
        if not cancel(arguments.id, store):
            raise SpecError(f"id: {arguments.id} - this run has ended already")
        dispatcher.start_next()
    else:
        try:
            store.delete(arguments.id)
        except ValueError as error:
            raise SpecError(str(error)) from None


def report(arguments: argparse.Namespace) -> None:
    """`report`: one HTML file of one or more runs."""
    from hybrid_core.report import html  # late: it brings plotly

    store = open_store()
    chosen = dict.fromkeys(arguments.ids)  # each once, in the order given
    page = html.report([_readable(store.get(run_id)) for run_id in chosen])
    write(arguments.output, page)
    print(arguments.output)


def _end_the_dead(dispatcher: Dispatcher) -> None:
    """End runs whose worker is gone. For a run from another machine, or from before this one
    started, that takes a while to tell."""
    dispatcher.end_the_dead()
    said: set[int] = set()
    unsure = dispatcher.unsure()
    while unsure:
        for run in unsure:
            if run.id not in said:
                said.add(run.id)
                print(
                    f"run {run.id}: started on {run.host} before this machine was; "
                    "watching whether it still moves",
                    file=sys.stderr,
                )
        time.sleep(0.5)
        dispatcher.end_the_dead()
        unsure = dispatcher.unsure()


def _readable(run: Run) -> Run:
    """The run, where this version can show it. Raises SpecError."""
    reason = unreadable(run)
    if reason:
        raise SpecError(f"run {run.id} - {reason}; `runs show {run.id} --json` prints it as it is")
    return run
