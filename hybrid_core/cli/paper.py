"""Commands that read the paper's tables: advice, quality, paper-check."""

import argparse

from hybrid_core.cli.flags import add_flags, options
from hybrid_core.cli.shared import Command, add_spec, print_json
from hybrid_core.evidence.advice.advise import advise
from hybrid_core.evidence.advice.facts import SCENARIOS
from hybrid_core.evidence.paper_check import check_all
from hybrid_core.evidence.quality.records import report as quality_report
from hybrid_core.evidence.throughput import throughput_ratios
from hybrid_core.interop import published
from hybrid_core.report.text.evidence import (
    advice_lines,
    paper_check_table,
    quality_table,
    throughput_ratio_table,
)
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload


def add(command: Command) -> None:
    """Declare the commands."""
    text = "Give advice on a design from the paper's tables, each piece with its source"
    parser = command("advice", _advice, text, as_json=True)
    add_spec(parser)
    add_flags(parser, Workload, only=("context_len",))
    lengths = ", ".join(f"{name} ({tokens})" for name, tokens in SCENARIOS.items())
    parser.add_argument(
        "--scenario",
        choices=list(SCENARIOS),
        help=f"the contexts that matter most, for ordering the advice: {lengths} "
        "(default: those of --context-len)",
    )
    parser.add_argument(
        "--needle-distance",
        type=int,
        help="tokens from the passage to be recalled to the end of the context",
    )

    text = "Show scaling laws and effects from the paper's tables, and how far to trust estimates"
    command("quality", _quality, text, as_json=True)

    text = "Recompute every parameter, FLOPs and cache figure that the paper prints"
    command("paper-check", _paper_check, text, as_json=True)


def _advice(arguments: argparse.Namespace) -> None:
    spec = published.resolve(arguments.spec)
    context_len = options(Workload, arguments).context_len
    distance = arguments.needle_distance
    if distance is not None and not 0 < distance <= context_len:
        raise SpecError(
            f"needle_distance: {distance} - must be from 1 to context_len ({context_len})"
        )
    given = advise(spec, context_len, distance, arguments.scenario)
    if arguments.json:
        print_json([piece.record() for piece in given])
    else:
        print(advice_lines(spec.name, given))


def _quality(arguments: argparse.Namespace) -> None:
    found = quality_report()
    if arguments.json:
        print_json(found)
    else:
        print(quality_table(found))


def _paper_check(arguments: argparse.Namespace) -> int:
    """Return 0 if every printed figure agrees, or differs for a known reason."""
    tables = check_all()
    cells = [cell for found in tables.values() for cell in found]
    if arguments.json:
        print_json([cell._asdict() | {"reason": cell.reason} for cell in cells])
    else:
        print(paper_check_table(tables))
        print()
        print(throughput_ratio_table(throughput_ratios()))
    unexplained = [cell for cell in cells if not cell.agrees and not cell.reason]
    if unexplained:
        return 1
    return 0
