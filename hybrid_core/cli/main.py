"""The command line: `hybrid-core COMMAND` or `python -m hybrid_core COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_core import __version__
from hybrid_core.cli import app, costs, designs, measurements, paper, runs
from hybrid_core.data import NotWritten
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import UnknownRun
from hybrid_core.validation import SpecError, one_line
from kernels.implementations import CannotRun

DESCRIPTION = "Compose, cost, build, measure and compare Transformer/Mamba hybrid language models."
EXIT_CODES = "exit codes: 0 done, 1 failed, 2 bad input (with one line on stderr)"
GROUPS = (designs, costs, paper, measurements, runs, app)  # in the order of the help text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except (SpecError, UnknownRun, CannotRun) as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except StoreError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    except BrokenPipeError:  # for example, when `| head` has read enough
        return 0
    except NotWritten as error:
        print(error, file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """argparse, except that bad input prints one line on stderr instead of the usage."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{one_line(message)}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_program(), description=DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str,
        run: Any,
        text: str,
        as_json: bool = False,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text,
        )
        added.set_defaults(run=run)
        if as_json:
            added.add_argument("--json", action="store_true", help="print JSON")
        return added

    for group in GROUPS:
        group.add(command)
    return parser


def _program() -> str:
    """The program as the user called it."""
    if Path(sys.argv[0]).name == "hybrid-core":
        return "hybrid-core"
    return "python -m hybrid_core"
