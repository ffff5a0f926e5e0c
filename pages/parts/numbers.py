"""The key numbers, each with its convention and its difference from the reference."""

from operator import attrgetter
from typing import Literal, NamedTuple

from hybrid_core.report import units
from hybrid_core.speed.cost import Cost
from pages.parts import browser, origin

KEY = "numbers"

_numbers = browser.component("numbers")

Card = dict[str, str | None]  # what web/static/numbers.js draws


class KeyNumber(NamedTuple):
    """One key number.

    `source`: its entry in profiles/numbers.yaml. `path`: its place in a Cost, as a dotted name.
    `counts`: what its convention counts, with placeholders for the workload. `better`: whether more
    or less of it is better."""

    label: str
    source: str
    path: str
    unit: str
    convention: str
    counts: str
    better: Literal["more", "less"] | None = None


KEY_NUMBERS = (
    KeyNumber(
        "Parameters without embedding",
        "parameters",
        "params.non_embedding",
        "count",
        "exact",
        "every parameter of the layers and norms",
    ),
    KeyNumber(
        "Total parameters",
        "parameters_in_all",
        "params.total",
        "count",
        "exact",
        "embedding included; {active} active per token",
    ),
    KeyNumber(
        "Training FLOPs per token",
        "training_flops",
        "train_flops.paper.per_token",
        "FLOPs",
        "paper",
        "6 N + mixer terms (Table 1, Appendix C); without the vocabulary head",
        "less",
    ),
    KeyNumber(
        "Decode FLOPs per token",
        "decode_flops",
        "decode_flops_per_token",
        "FLOPs",
        "exact",
        "every matrix product and scan, the head included",
        "less",
    ),
    KeyNumber(
        "Cache per sequence at {at}",
        "cache",
        "cache_bytes.exact",
        "bytes",
        "exact",
        "real shapes and dtypes. paper: {paper} (bf16)",
        "less",
    ),
    KeyNumber(
        "Memory, batch {batch}",
        "memory",
        "memory_bytes.total",
        "bytes",
        "exact",
        "weights in {stored}, cache, and the activations of a prefill in chunks of {chunk} tokens",
        "less",
    ),
    KeyNumber(
        "Prefill speed, at most",
        "prefill_ceiling",
        "predicted.prefill_tokens_per_s",
        "tokens/s",
        "predicted",
        "{basis}",
        "more",
    ),
    KeyNumber(
        "Decode speed, at most",
        "decode_ceiling",
        "predicted.decode_tokens_per_s",
        "tokens/s",
        "predicted",
        "{basis}",
        "more",
    ),
)
SMALL_PERCENT = 0.05  # a smaller difference is shown as none


def draw(now: Cost, before: Cost, against: str, device: str) -> None:
    """One card per key number. `now`: the costs of the design; `before`: those of the reference,
    whose name is `against`; `device`: the accelerator's name."""
    words = _words(now)
    cards = [_card(number, now, before, against, words) for number in KEY_NUMBERS]
    setting = f"At {words['at']} tokens, batch {words['batch']}, on {device}"
    use = f"{setting}: change it under Workload and hardware."
    result = _numbers(
        key=KEY,
        data={"cards": cards, "use": use},
        on_asked_change=origin.drawn_anew,
    )
    origin.open_if_asked(result.asked)


def _words(costs: Cost) -> dict[str, str]:
    """What labels and conventions say about the workload."""
    workload = costs.workload
    return {
        "active": units.count(costs.params.active),
        "paper": units.n_bytes(costs.cache_bytes.paper),
        "batch": str(workload.batch_size),
        "at": units.length(workload.context_len),
        "basis": costs.predicted.basis,
        "stored": str(workload.weight_dtype),
        "chunk": f"{workload.max_batched_tokens:,}",
    }


def _card(
    number: KeyNumber,
    now: Cost,
    before: Cost,
    against: str,
    words: dict[str, str],
) -> Card:
    value = _number_at(now, number.path)
    reference = _number_at(before, number.path)
    written = units.WRITTEN[number.unit]
    counts = number.counts.format(**words)
    card: Card = {
        "label": number.label.format(**words),
        "value": written(value),
        "convention": number.convention,
        "says": f"{number.convention}: {counts}. {against}: {written(reference)}",
        "source": number.source,
    }
    return card | _change(value, reference, number.better)


def _change(value: float, reference: float, better: str | None) -> Card:
    """The difference from the reference, and whether it is an improvement."""
    if not reference:
        return {"change": None, "judged": ""}
    percent = 100 * (value / reference - 1)
    if abs(percent) < SMALL_PERCENT:
        return {"change": "0 %", "judged": ""}
    return {"change": f"{percent:+,.1f} %", "judged": _judged(percent, better)}


def _judged(percent: float, better: str | None) -> str:
    if better is None:
        return ""
    direction = "more"
    if percent < 0:
        direction = "less"
    return "better" if direction == better else "worse"


def _number_at(costs: Cost, path: str) -> float:
    return float(attrgetter(path)(costs))
