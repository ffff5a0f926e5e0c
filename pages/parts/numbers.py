"""The key numbers, each with its convention and its difference to the reference."""

from typing import Any

from hybrid_core.report import units
from hybrid_core.speed.cost import Cost
from pages.parts import browser

_numbers = browser.component("numbers")

MORE, LESS = "more", "less"  # which of the two is better
EXACT_PARAMS = "exact: every parameter of the layers and norms"
KEY_NUMBERS = (
    ("Parameters without embedding", ("params", "non_embedding"), units.count, EXACT_PARAMS, None),
    (
        "Parameters in all",
        ("params", "total"),
        units.count,
        "exact: embedding included; {active} active for a token",
        None,
    ),
    (
        "Training FLOPs per token",
        ("train_flops", "paper", "per_token"),
        units.flops,
        "paper: 6 N + mixer terms (Table 1, Appendix C); without the vocabulary head",
        LESS,
    ),
    (
        "Decode FLOPs per token",
        ("decode_flops_per_token",),
        units.flops,
        "exact: every matrix product and scan, the head included",
        LESS,
    ),
    (
        "Cache per sequence at {at}",
        ("cache_bytes", "exact"),
        units.n_bytes,
        "exact: real shapes and dtypes. paper: {paper} (bf16)",
        LESS,
    ),
    (
        "Memory, batch {batch}",
        ("memory_bytes", "total"),
        units.n_bytes,
        "exact: weights in {stored}, cache, and the tensors alive at the widest moment of a prefill of {chunk} tokens at a time",
        LESS,
    ),
    (
        "Prefill speed, at most",
        ("predicted", "prefill_tokens_per_s"),
        units.rate,
        "predicted: {basis}",
        MORE,
    ),
    (
        "Decode speed, at most",
        ("predicted", "decode_tokens_per_s"),
        units.rate,
        "predicted: {basis}",
        MORE,
    ),
)


def draw(now: Cost, before: Cost, against: str, device: str) -> None:
    """One card a number; `now` and `before` are costs, `against` is the reference's name,
    `device` the accelerator's."""
    words = {
        "active": units.count(now.params.active),
        "paper": units.n_bytes(now.cache_bytes.paper),
        "batch": now.workload.batch_size,
        "at": units.length(now.workload.context_len),
        "basis": now.predicted.basis,
        "stored": now.workload.weight_dtype,
        "chunk": f"{now.workload.max_batched_tokens:,}",
    }
    cards = []
    for label, path, unit, says, better in KEY_NUMBERS:
        value, base = at(now, path), at(before, path)
        change = 100 * (value / base - 1) if base else 0.0
        judged = (
            ""
            if not better or abs(change) < 0.05
            else "better"
            if (change > 0) == (better == MORE)
            else "worse"
        )
        cards.append(
            {
                "label": label.format(**words),
                "value": unit(value),
                "change": f"{change:+,.1f} %" if abs(change) >= 0.05 else "0 %" if base else None,
                "judged": judged,
                "convention": says.partition(":")[0],
                "says": f"{says.format(**words)}. {against}: {unit(base)}",
            }
        )
    use = f"At {words['at']} tokens, batch {words['batch']}, on {device}: change it under Workload and hardware."
    _numbers(key="numbers", data={"cards": cards, "use": use})


def at(costs: Cost, path: tuple[str, ...]) -> float:
    """A number deep in a design's costs."""
    found: Any = costs
    for key in path:
        found = getattr(found, key)
    return float(found)
