"""The command cost."""

import argparse
import sys
from typing import Any

from hybrid_core.cli.flags import add_flags, options
from hybrid_core.cli.shared import Command, add_spec, print_json
from hybrid_core.evidence.quality.additive import PAPER_TOKENS
from hybrid_core.evidence.quality.records import record as quality_record
from hybrid_core.interop import kernel_shapes, published
from hybrid_core.report.text.design import cost_table
from hybrid_core.report.text.evidence import quality_lines
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import Cost, cost
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload

MOST_TOKENS = 1e18


def add(command: Command) -> None:
    """Declare the command."""
    text = "Every cost of a design, from closed forms, at once"
    parser = command("cost", print_cost, text, as_json=True)
    add_spec(parser)
    add_flags(parser, Workload)
    parser.add_argument(
        "--tokens",
        type=float,
        help="training tokens, for the total training FLOPs and the quality, e.g. 60e9",
    )
    parser.add_argument(
        "--quality",
        action="store_true",
        help="also the loss that the paper's rows suggest, and the nearest of them",
    )
    parser.add_argument(
        "--hardware",
        default="h100_sxm",
        help=f"one of {', '.join(hardware.devices())} (default: %(default)s)",
    )


def print_cost(arguments: argparse.Namespace) -> None:
    """`cost`: parameters, FLOPs, cache, memory and speed of a design."""
    spec = published.resolve(arguments.spec)
    device = hardware.get(arguments.hardware)
    for line in hardware.unreadable().values():
        print(f"a calibration is left out: {line}", file=sys.stderr)
    found = cost(spec, options(Workload, arguments), device)
    tokens = arguments.tokens
    if tokens is not None and not 0 < tokens < MOST_TOKENS:
        raise SpecError(f"tokens: {tokens} - must be positive and below {MOST_TOKENS:g}")
    refusals = kernel_shapes.kernel_refusals(spec)
    quality = None
    if arguments.quality:
        quality = quality_record(spec, tokens or PAPER_TOKENS)
    if arguments.json:
        print_json(_record(found, refusals, tokens, quality))
        return
    print(cost_table(found, refusals, tokens))
    if quality is not None:
        print("\n" + quality_lines(quality))


def _record(
    found: Cost,
    refusals: list[str],
    tokens: float | None,
    quality: dict[str, Any] | None,
) -> dict[str, Any]:
    """The JSON of `cost --json`: the cost, and what the command was asked for beside it."""
    record = found.model_dump(mode="json")
    record["kernel_shapes"] = refusals
    if tokens is not None:
        for flops in record["train_flops"].values():
            flops["total"] = flops["per_token"] * tokens
    if quality is not None:
        record["quality"] = quality
    return record
