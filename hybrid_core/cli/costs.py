"""The command `cost`."""

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
    text = "Parameters, FLOPs, cache, memory and speed of a design, from closed forms"
    parser = command("cost", _cost, text, as_json=True)
    add_spec(parser)
    add_flags(parser, Workload)
    parser.add_argument(
        "--tokens",
        type=float,
        help="training tokens, e.g. 60e9: prints the FLOPs of the training run; --quality "
        "estimates the loss after them",
    )
    parser.add_argument(
        "--quality",
        action="store_true",
        help="also estimate the loss from the paper's results, and show the nearest of them",
    )
    parser.add_argument(
        "--hardware",
        default="h100_sxm",
        help=f"the accelerator: {', '.join(hardware.devices())} (default: %(default)s)",
    )


def _cost(arguments: argparse.Namespace) -> None:
    spec = published.resolve(arguments.spec)
    device = hardware.get(arguments.hardware)
    for line in hardware.unreadable().values():
        print(f"skipping a calibration: {line}", file=sys.stderr)
    found = cost(spec, options(Workload, arguments), device)
    tokens = _checked(arguments.tokens)
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
    """The JSON of `cost --json`: the cost, together with the command's options."""
    record = found.model_dump(mode="json")
    record["kernel_shapes"] = refusals
    if tokens is not None:
        for flops in record["train_flops"].values():
            flops["total"] = flops["per_token"] * tokens
    if quality is not None:
        record["quality"] = quality
    return record


def _checked(tokens: float | None) -> float | None:
    """A number of training tokens. Raises SpecError if it is out of range."""
    if tokens is None or 0 < tokens < MOST_TOKENS:
        return tokens
    raise SpecError(f"tokens: {tokens} - must be positive and below {MOST_TOKENS:g}")
