"""The key numbers, each with its convention and its difference to the reference."""

from typing import Any

from hybrid_core.report import units
from pages.parts import layout

EXACT_PARAMS = "exact: every parameter of the layers and norms"
KEY_NUMBERS = (
    ("Parameters without embedding", ("params", "non_embedding"), units.count, EXACT_PARAMS, "off"),
    ("Parameters in all", ("params", "total"), units.count, "exact: embedding included", "off"),
    (
        "Training FLOPs per token",
        ("train_flops", "paper", "per_token"),
        units.flops,
        "paper: 6 N + mixer terms (Table 1, Appendix C); without the vocabulary head",
        "inverse",
    ),
    (
        "Decode FLOPs per token",
        ("decode_flops_per_token",),
        units.flops,
        "exact: every matrix product and scan, the head included",
        "inverse",
    ),
    ("Cache per sequence", ("cache_bytes", "exact"), units.n_bytes, "exact: real shapes and dtypes. paper: {paper} (bf16)", "inverse"),
    (
        "Memory, batch {batch}",
        ("memory_bytes", "total"),
        units.n_bytes,
        "exact: weights, cache, and the tensors alive at the widest moment of the prefill through torch's eager operations",
        "inverse",
    ),
    ("Prefill speed", ("predicted", "prefill_tokens_per_s"), units.rate, "predicted: {basis}", "normal"),
    ("Decode speed", ("predicted", "decode_tokens_per_s"), units.rate, "predicted: {basis}", "normal"),
)


def draw(now: dict[str, Any], before: dict[str, Any], against: str) -> None:
    """One card a number; `now` and `before` are cost summaries, `against` is the reference's name."""
    words = {
        "paper": units.n_bytes(now["cache_bytes"]["paper"]),
        "batch": now["workload"]["batch_size"],
        "basis": now["predicted"]["basis"],
    }
    for cell, (label, path, unit, says, colour) in zip(layout.cells(len(KEY_NUMBERS), layout.CARD), KEY_NUMBERS, strict=True):
        value, base = at(now, path), at(before, path)
        convention, help_text = says.partition(":")[0], says.format(**words)
        cell.metric(
            label.format(**words),
            unit(value),
            f"{100 * (value / base - 1):+.1f} %" if base else None,
            delta_color=colour,
            delta_description=convention,
            help=f"{help_text}. {against}: {unit(base)}",
        )


def at(record: dict[str, Any], path: tuple[str, ...]) -> float:
    """A number deep in a summary."""
    for key in path:
        record = record[key]
    return float(record)
