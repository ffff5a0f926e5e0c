"""The numbers of a run that a report shows first, each on a card."""

from collections.abc import Iterator
from typing import NamedTuple

from hybrid_core.report import units
from hybrid_core.report.numbers import Number, in_chunks, numbers, of_name
from hybrid_core.results.profile import Decode, PeakMemory, Prefill
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import Cost


class Card(NamedTuple):
    """A number: its name, its value, and a line with its convention and the figures to compare it
    with. `sources`: entries of profiles/numbers.yaml."""

    name: str
    value: str
    convention: str
    sources: tuple[str, ...]


def design_cards(costs: Cost) -> list[Card]:
    """What the closed forms give for a design."""
    params = costs.params
    train = costs.train_flops
    cache = costs.cache_bytes
    return [
        Card(
            "parameters, without embedding",
            units.count(params.non_embedding),
            f"exact; {units.count(params.total)} in total",
            ("parameters", "parameters_in_all"),
        ),
        Card(
            "training FLOPs per token, 8K",
            units.flops(train.paper.per_token),
            f"paper; exact, head included: {units.flops(train.exact.per_token)}",
            ("training_flops",),
        ),
        Card(
            "cache per sequence, 8K",
            units.n_bytes(cache.exact),
            f"exact; paper, bf16: {units.n_bytes(cache.paper)}",
            ("cache",),
        ),
    ]


def run_cards(run: Run) -> Iterator[Card]:
    """What was measured."""
    found = numbers(run)
    prefill = run.part(Prefill)
    if prefill:
        details = f"{prefill.repeats} repeats"
        if prefill.shortened:
            details += ", shortened for the budget"
        size = f"{prefill.batch_size} x {prefill.prompt_len}"
        name = f"prefill, batch {size}{in_chunks(prefill)}"
        yield _speed_card(name, of_name(found, "prefill"), details)
    decode = run.part(Decode)
    if decode:
        first = decode.rows[0]
        slowest = units.seconds(first.max_s)
        details = f"{first.repeats} steps, {units.seconds(first.min_s)} to {slowest} per step"
        name = f"decode at {units.length(first.context_len)}, batch {decode.batch_size}"
        speeds = of_name(found, f"decode at {first.context_len:,} tokens")
        yield _speed_card(name, speeds, details)
    memory = run.part(PeakMemory)
    if memory:
        peak = of_name(found, "peak memory")["measured"]
        sources = (peak.source, "memory_closed_form", "prefill_activations")
        yield Card("peak memory", peak.said, _memory_beside(memory), sources)
    for number in found:
        if number.source in ("energy", "idle_power"):
            yield Card(number.name, number.said, number.convention, (number.source,))


def _speed_card(name: str, speeds: dict[str, Number], details: str) -> Card:
    measured = speeds["measured"]
    predicted = speeds["predicted"].said
    convention = f"measured, {details}; predicted {predicted}"
    return Card(name, measured.said, convention, (measured.source,))


def _memory_beside(found: PeakMemory) -> str:
    """Which memory was measured, and what the closed forms give."""
    predicted = found.predicted_bytes
    convention = f"measured, {found.what}; {units.n_bytes(predicted.total)} by the closed forms"
    at_once = found.one_shot_activations
    if at_once is None:
        return convention
    convention += f", including {units.n_bytes(predicted.activations)} of prefill activations"
    if at_once != predicted.activations:
        convention += f" ({units.n_bytes(at_once)} if done at once)"
    return convention
