"""The command `app`."""

import argparse
import os
import sys

from hybrid_core import extras
from hybrid_core.cli.shared import Command
from hybrid_core.data import APP
from hybrid_core.validation import SpecError

MOST_PORTS = 65_535


def add(command: Command) -> None:
    """Declare the command."""
    parser = command("app", _app, "Serve the pages on this machine (stop it with Ctrl-C)")
    parser.add_argument(
        "--port",
        type=int,
        default=8501,
        help="port to listen on, on localhost only (default: %(default)s)",
    )


def _app(arguments: argparse.Namespace) -> None:
    """Replace this process with the server, so that Ctrl-C and signals reach it."""
    port = arguments.port
    if not 0 < port <= MOST_PORTS:
        raise SpecError(f"port: {port} - must be from 1 to {MOST_PORTS}")
    extras.require("app", "app")
    server = ["streamlit", "run", str(APP), "--server.port", str(port)]
    print(f"Serving the explorer on http://localhost:{port} (stop it with Ctrl-C)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", *server])
