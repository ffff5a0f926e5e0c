"""The key numbers, each with its convention and its difference to the reference."""

from typing import Any, Literal, NamedTuple

import streamlit as st

from hybrid_core.report import units
from hybrid_core.report.sources import explained, origins
from hybrid_core.speed.cost import Cost
from pages.parts import browser

KEY = "numbers"

_numbers = browser.component("numbers")


class KeyNumber(NamedTuple):
    """A card. `path`: where a Cost has it; `counts`: what its convention counts, with words
    of the workload to fill in; `better`: which of two designs has the better one."""

    label: str
    source: str
    path: tuple[str, ...]
    unit: str
    convention: str
    counts: str
    better: Literal["more", "less"] | None = None


KEY_NUMBERS = (
    KeyNumber(
        "Parameters without embedding",
        "parameters",
        ("params", "non_embedding"),
        "count",
        "exact",
        "every parameter of the layers and norms",
    ),
    KeyNumber(
        "Parameters in all",
        "parameters_in_all",
        ("params", "total"),
        "count",
        "exact",
        "embedding included; {active} active for a token",
    ),
    KeyNumber(
        "Training FLOPs per token",
        "training_flops",
        ("train_flops", "paper", "per_token"),
        "FLOPs",
        "paper",
        "6 N + mixer terms (Table 1, Appendix C); without the vocabulary head",
        "less",
    ),
    KeyNumber(
        "Decode FLOPs per token",
        "decode_flops",
        ("decode_flops_per_token",),
        "FLOPs",
        "exact",
        "every matrix product and scan, the head included",
        "less",
    ),
    KeyNumber(
        "Cache per sequence at {at}",
        "cache",
        ("cache_bytes", "exact"),
        "bytes",
        "exact",
        "real shapes and dtypes. paper: {paper} (bf16)",
        "less",
    ),
    KeyNumber(
        "Memory, batch {batch}",
        "memory",
        ("memory_bytes", "total"),
        "bytes",
        "exact",
        "weights in {stored}, cache, and the tensors alive at the widest moment of a prefill of "
        "{chunk} tokens at a time",
        "less",
    ),
    KeyNumber(
        "Prefill speed, at most",
        "prefill_ceiling",
        ("predicted", "prefill_tokens_per_s"),
        "tokens/s",
        "predicted",
        "{basis}",
        "more",
    ),
    KeyNumber(
        "Decode speed, at most",
        "decode_ceiling",
        ("predicted", "decode_tokens_per_s"),
        "tokens/s",
        "predicted",
        "{basis}",
        "more",
    ),
)
SMALL = 0.05  # percent; a difference below that is none


def draw(now: Cost, before: Cost, against: str, device: str) -> None:
    """One card a number; `now` and `before` are the costs of two designs, `against` is the
    reference's name, `device` the accelerator's. A click on a "?" opens where the number comes
    from."""
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
    for number in KEY_NUMBERS:
        value = at(now, number.path)
        base = at(before, number.path)
        written = units.WRITTEN[number.unit]
        counts = number.counts.format(**words)
        card: dict[str, str | None] = {
            "label": number.label.format(**words),
            "value": written(value),
            "convention": number.convention,
            "says": f"{number.convention}: {counts}. {against}: {written(base)}",
            "source": number.source,
        }
        cards.append(card | _change(value, base, number.better))
    asked = f"At {words['at']} tokens, batch {words['batch']}, on {device}"
    use = f"{asked}: change it under Workload and hardware."
    said = _numbers(
        key=KEY,
        data={"cards": cards, "use": use},
        on_asked_change=_drawn_anew,
    )
    asked_for = said.asked
    if asked_for in origins():  # it comes from the browser, so it may be anything
        st.dialog(origins()[asked_for].label)(_explain)(asked_for)


def _change(value: float, base: float, better: str | None) -> dict[str, str | None]:
    """The difference to the reference, and whether it is for the better."""
    if not base:
        return {"change": None, "judged": ""}
    percent = 100 * (value / base - 1)
    if abs(percent) < SMALL:
        return {"change": "0 %", "judged": ""}
    judged = ""
    if better:
        judged = "worse"
    if better == ("less" if percent < 0 else "more"):
        judged = "better"
    return {"change": f"{percent:+,.1f} %", "judged": judged}


def at(costs: Cost, path: tuple[str, ...]) -> float:
    """A number deep in a design's costs."""
    found: Any = costs
    for key in path:
        found = getattr(found, key)
    return float(found)


def _drawn_anew() -> None:
    """A click on a "?" draws the page anew, which then opens the dialog."""


def _explain(key: str) -> None:
    st.markdown(explained(key))
