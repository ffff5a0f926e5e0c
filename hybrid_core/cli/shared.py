"""Shared by several commands: how a command is declared, its SPEC argument, and its output."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid_core.data import NotWritten, write_whole
from hybrid_core.validation import SpecError

# (name, what it runs, one line of help, whether it can print JSON) -> its parser
Command = Callable[..., argparse.ArgumentParser]


SPEC_HELP = "a YAML file, a config.json, or the name of a preset or a published model"


def add_spec(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a command's design."""
    parser.add_argument("spec", metavar="SPEC", help=SPEC_HELP)


def print_json(data: Any) -> None:
    """Print JSON in the format that all commands share."""
    print(json.dumps(data, indent=2, default=str))


def write(path: Path, text: str) -> None:
    """Write the file that --output names. Raises SpecError if it cannot be written."""
    with naming_the_output():
        write_whole(path, text)


@contextmanager
def naming_the_output() -> Iterator[None]:
    """Turn NotWritten into a SpecError about the argument `output`."""
    try:
        yield
    except NotWritten as error:
        raise SpecError(f"output: {error}") from None
