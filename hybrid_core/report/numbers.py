"""The numbers of a run and of a design, each with its unit, its convention and its source. The
terminal, the comparison, the report and the pages all show these."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.quality.estimator import OutOfRange, estimate
from hybrid_core.evidence.quality.quoted import quoted
from hybrid_core.evidence.throughput import generated
from hybrid_core.report import units
from hybrid_core.report.retrieval import reach, scores_of
from hybrid_core.results import profile as results
from hybrid_core.results.probes import Copying, LossByPosition, Recall
from hybrid_core.results.retrieval import Scores
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import Cost
from hybrid_core.speed.hardware import Hardware


class Number(NamedTuple):
    """One number.

    - `name`: what it is. Numbers that may be compared across runs have the same name.
    - `value`: in `unit`. Words if it is not a quantity, None if it is unknown.
    - `convention`: exact, paper, traced, measured, predicted or quoted. Empty without a value.
    - `source`: its entry in profiles/numbers.yaml.
    - `at`: the settings of this run that it applies to.
    - `why`: why there is no value."""

    name: str
    value: float | str | None
    unit: str
    convention: str
    source: str
    at: str = ""
    why: str = ""

    @property
    def said(self) -> str:
        """The value with its unit, or why there is none."""
        if self.value is None:
            return self.why
        if isinstance(self.value, str):
            return self.value
        return units.WRITTEN[self.unit](self.value)

    @property
    def label(self) -> str:
        """Name and settings."""
        if not self.at:
            return self.name
        return f"{self.name}, {self.at}"

    @property
    def compared_as(self) -> str:
        """Name and convention. Numbers for which these are equal share a row."""
        if not self.convention:
            return self.name
        return f"{self.name} ({self.convention})"


def numbers(run: Run) -> list[Number]:
    """Every number of a run, in the order in which they are measured. Raises Unreadable."""
    return [
        *_trace(run.part(results.Trace)),
        *_cache(run.part(results.LiveCache)),
        *_prefill(run.part(results.Prefill)),
        *_decode(run.part(results.Decode)),
        *_generation(run.part(results.Generation)),
        *_memory(run.part(results.PeakMemory)),
        *_energy(run.part(results.Energy)),
        *_scores(run),
        *_probes(run),
    ]


def of_name(found: list[Number], name: str) -> dict[str, Number]:
    """The numbers with one name, by their convention."""
    return {number.convention: number for number in found if number.name == name}


# ---------------------------------------------------------------- profiles


def _trace(found: results.Trace | None) -> Iterator[Number]:
    if found is None:
        return
    for what, counts in (("forward", found.forward), ("decode", found.decode)):
        agree = "DISAGREE"
        if counts.agree:
            agree = "agree"
        yield Number(
            f"{what} FLOPs at {found.seq_len:,} tokens",
            counts.torch,
            "FLOPs",
            "traced",
            "traced_flops",
            f"fvcore, torch, exact {agree}",
        )


def _cache(found: results.LiveCache | None) -> Iterator[Number]:
    if found is None:
        return
    for row in found.rows:
        equal = "NOT EQUAL"
        if row.live_bytes == row.exact_bytes:
            equal = "equal"
        yield Number(
            f"cache at {row.context_len:,} tokens",
            row.live_bytes,
            "bytes",
            "measured",
            "live_cache",
            f"one sequence ({equal} to exact)",
        )


def in_chunks(found: results.Prefill) -> str:
    """The chunk size of a prefill. Empty for runs of earlier versions, which prefilled in one
    pass."""
    if not found.chunk_tokens:
        return ""
    return f", {found.chunk_tokens:,} tokens at a time"


def _prefill(found: results.Prefill | None) -> Iterator[Number]:
    if found is None:
        return
    at = f"batch {found.batch_size}, prompt {found.prompt_len}{in_chunks(found)}"
    speeds = {"measured": found.tokens_per_s, "predicted": found.predicted_tokens_per_s}
    for convention, speed in speeds.items():
        yield Number("prefill", speed, "tokens/s", convention, "prefill", at)


def _decode(found: results.Decode | None) -> Iterator[Number]:
    if found is None:
        return
    at = f"batch {found.batch_size}"
    for row in found.rows:
        name = f"decode at {row.context_len:,} tokens"
        speeds = {"measured": row.tokens_per_s, "predicted": row.predicted_tokens_per_s}
        for convention, speed in speeds.items():
            yield Number(name, speed, "tokens/s", convention, "decode", at)


def _generation(found: results.Generation | None) -> Iterator[Number]:
    if found is None:
        return
    for row in found.rows:
        name = f"generation to {row.total_len:,} tokens"
        speeds = {"measured": row.tokens_per_s, "predicted": row.predicted_tokens_per_s}
        if row.paper_tokens_per_s is not None:
            speeds["quoted, H200"] = row.paper_tokens_per_s
        for convention, speed in speeds.items():
            yield Number(name, speed, "tokens/s", convention, "generation")
    for short in found.not_measured:
        name = f"generation to {short.total_len:,} tokens"
        why = f"not measured: {short.why}"
        yield Number(name, None, "tokens/s", "", "generation", why=why)


def _memory(found: results.PeakMemory | None) -> Iterator[Number]:
    """The measured peak, then the closed forms. Earlier versions did not store the activations of a
    one-shot prefill, nor the live ones."""
    if found is None:
        return
    predicted = found.predicted_bytes
    at_once = found.one_shot_activations
    yield Number("peak memory", found.peak_bytes, "bytes", "measured", "peak_memory", at=found.what)
    yield Number(
        "weights, cache, activations", predicted.total, "bytes", "exact", "memory_closed_form"
    )
    if at_once is not None:
        yield Number(
            "activations of the prefill as it was done",
            predicted.activations,
            "bytes",
            "exact",
            "prefill_activations",
        )
        yield Number(
            "activations of the prefill at once", at_once, "bytes", "exact", "prefill_activations"
        )
    live = found.activations
    if live:
        name = f"activations and cache, prefill of {live.prompt_len} tokens"
        yield Number(name, live.live_bytes, "bytes", "measured", "live_activations")
        yield Number(name, live.exact_bytes, "bytes", "exact", "live_activations")


# ---------------------------------------------------------------- energy

# An earlier version metered all of decoding: it included filling the caches, and took as many steps
# as the time allowed.
WHOLE_STRETCH = "energy of the whole decode stretch, cache filling included: not comparable"


def how_measured(found: results.Energy) -> str:
    """How the energy of a run was measured, in a sentence."""
    within = f"within {found.error:.0%} by the meter's steps"
    return f"{found.meter}, idle power included, over counted steps alone; {within}"


def _energy(found: results.Energy | None) -> Iterator[Number]:
    if found is None:
        return
    if found.parts:
        yield _whole_stretch(found.parts.decode.joules, found.note)
    elif found.rows:
        yield from map(_phase, found.rows)
        yield from _idle(found.idle)
    else:
        why = found.note or "no stretch was metered"
        yield Number("energy", None, "J/token", "", "energy", why=why)


def _measured_or_not(
    name: str,
    value: float | None,
    unit: str,
    source: str,
    why: str,
) -> Number:
    """A number that a meter may not have provided."""
    if value is None:
        return Number(name, None, unit, "", source, why=why)
    return Number(name, value, unit, "measured", source)


def _phase(row: results.EnergyRow) -> Number:
    where = "of"
    if row.phase == "decode":
        where = "at"
    name = f"energy, {row.phase} {where} {row.context_len:,} tokens, batch {row.batch_size}"
    return _measured_or_not(
        name,
        row.joules_per_token,
        "J/token",
        "energy",
        row.why or "",
    )


def _idle(idle: results.Idle | None) -> Iterator[Number]:
    if idle is None:
        return
    name = "idle power"
    if idle.watts is not None:
        name = "idle power, included above"
    yield _measured_or_not(name, idle.watts, "W", "idle_power", idle.why or "")


def _whole_stretch(joules: float | None, note: str) -> Number:
    """The figure that an earlier version stored. It is not compared with others."""
    name = "energy"
    if joules is not None:
        name = WHOLE_STRETCH
    return _measured_or_not(name, joules, "J", "energy", note)


# ---------------------------------------------------------------- retrieval

PROXY = "measured, proxy"


class ScoreNumbers(NamedTuple):
    """The numbers that compare retrieval runs."""

    at_trained_len: Number
    at_1_5x: Number
    effective_context: Number
    tokens_to_learn: Number


def score_numbers(run: Run) -> ScoreNumbers:
    """The numbers of a run that has a map. Those of a stopped run cover the cells that it
    finished."""
    found = scores_of(run)
    not_asked = "not tested"
    counted = PROXY if found.at_trained_len is not None else ""
    counted_beyond = PROXY if found.at_1_5x is not None else ""
    tokens: float | str = found.tokens_to_learn or "not reached"
    return ScoreNumbers(
        Number(
            f"needles recalled at {found.trained_len:,} tokens",
            found.at_trained_len,
            "share",
            counted,
            "needles_recalled",
            why=not_asked,
        ),
        Number(
            "at 1.5 times that",
            found.at_1_5x,
            "share",
            counted_beyond,
            "needles_recalled",
            why=not_asked,
        ),
        Number(
            "effective context, tokens",
            reach(found),
            "tokens",
            PROXY,
            "effective_context",
        ),
        Number(
            "training tokens to 90 %",
            tokens,
            "count",
            PROXY,
            "tokens_to_learn",
        ),
    )


def _scores(run: Run) -> Iterable[Number]:
    """The scores of a finished run. There are none if its trained length was not tested."""
    if run.part(Scores) is None:
        return ()
    found = score_numbers(run)
    if found.at_trained_len.value is None:
        return ()
    return found


def _probes(run: Run) -> Iterator[Number]:
    recall = run.part(Recall)
    if recall:
        for pairs in recall.rows:
            name = f"associative recall, {pairs.n_pairs} pairs"
            yield Number(name, pairs.accuracy, "share", PROXY, "associative_recall")
    copying = run.part(Copying)
    if copying:
        for copied in copying.rows:
            name = f"selective copying, {copied.context_len:,} tokens"
            yield Number(name, copied.share, "share copied", PROXY, "selective_copying")
    text = run.part(LossByPosition)
    if text:
        for row in text.rows:
            name = f"text, positions {row.start:,} to {row.to:,}"
            loss = row.nats_per_byte
            why = "no number: training diverged"
            yield Number(name, loss, "nats/byte", PROXY, "loss_by_position", why=why)


# ---------------------------------------------------------------- designs


def of_design(spec: ArchSpec, costs: Cost, hardware: Hardware) -> list[Number]:
    """What a design costs in a workload. `costs`: its costs (speed/cost.py)."""
    return [*_sizes(costs), *_in_use(costs, hardware), *_known(spec, costs)]


def _sizes(costs: Cost) -> Iterator[Number]:
    params = costs.params
    at = units.length(costs.workload.context_len)
    yield Number(
        "parameters without embedding", params.non_embedding, "count", "exact", "parameters"
    )
    yield Number("total parameters", params.total, "count", "exact", "parameters_in_all")
    yield Number(
        f"training FLOPs per token at {at}",
        costs.train_flops.paper.per_token,
        "FLOPs",
        "paper",
        "training_flops",
    )
    yield Number(
        f"decode FLOPs per token at {at}",
        costs.decode_flops_per_token,
        "FLOPs",
        "exact",
        "decode_flops",
    )
    cache = costs.cache_bytes.exact
    yield Number(f"cache per sequence at {at}", cache, "bytes", "exact", "cache")


def _in_use(costs: Cost, hardware: Hardware) -> Iterator[Number]:
    batch = f"batch {costs.workload.batch_size}"
    predicted = costs.predicted
    ceiling = f"predicted ceiling, {hardware.name}"
    memory = costs.memory_bytes.total
    yield Number(f"memory, {batch}", memory, "bytes", "exact", "memory")
    yield Number(
        f"fits {hardware.name}",
        fits_words(costs.fit.fits, costs.fit.fits_engine),
        "",
        "exact",
        "fits",
    )
    yield Number("prefill", predicted.prefill_tokens_per_s, "tokens/s", ceiling, "prefill_ceiling")
    yield Number(
        f"decode, {batch}",
        predicted.decode_tokens_per_s,
        "tokens/s",
        ceiling,
        "decode_ceiling",
    )


def fits_words(fits: bool, fits_engine: bool) -> str:
    """The verdict of costs/fit.py in a word or two."""
    if not fits:
        return "no"
    if fits_engine:
        return "yes"
    return "not in vLLM's pages"


def _known(spec: ArchSpec, costs: Cost) -> Iterator[Number]:
    """What the paper prints for a design, or what its rows suggest. The text names the
    convention."""
    context = costs.workload.context_len
    reached = generated(spec, context) or "not measured"
    yield Number("generation by the paper's code", reached, "", "", "paper_generation")
    yield Number("NLL on DCLM", _loss(spec), "", "", "nll")
    yield Number("accuracy, mean of five tasks", _accuracy(spec), "", "", "accuracy")


def _loss(spec: ArchSpec) -> str:
    printed = quoted(spec)
    if printed:
        return str(printed)
    found = estimate(spec)
    if isinstance(found, OutOfRange):
        return "no estimate"
    return f"{found.nll:.3f} ({found.low:.3f} to {found.high:.3f}, estimated, 60B tokens)"


def _accuracy(spec: ArchSpec) -> str:
    printed = quoted(spec)
    if not printed or not printed.accuracy:
        return "not printed"
    return f"{printed.accuracy:.1f} % (quoted, Table {printed.table})"
