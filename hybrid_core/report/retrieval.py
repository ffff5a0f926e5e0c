"""How to read a retrieval run, and its scores. Its numbers are in numbers.py, its charts in
figures/."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hybrid_core.live.retrieval.options import NiahOptions
from hybrid_core.live.retrieval.scores import effective_context, scores
from hybrid_core.report import units
from hybrid_core.results.part import Missing
from hybrid_core.results.probes import Copying, LossByPosition, MissingPairs, Recall
from hybrid_core.results.retrieval import (
    Map,
    MissingLength,
    Proxy,
    Scores,
    Training,
    TrainingRecord,
    Verdict,
)
from hybrid_core.runs.store import Run


def learnt(run: Run) -> bool:
    """Whether a map shows what a design recalls. If not, it only shows that the proxy has not
    learnt. A checkpoint is not trained, so its map always does."""
    verdict = run.part(Verdict)
    if verdict:
        return verdict.learnt
    training = run.part(Training)
    return training is None or training.tokens_to_learn is not None


def probe_learnt(found: Recall | Copying | LossByPosition) -> bool:
    """Whether a probe's proxy learnt its task. The loss on a text has no such threshold, so it
    counts as learnt."""
    return isinstance(found, LossByPosition) or found.training.tokens_to_learn is not None


def reading(run: Run) -> str | None:
    """How to read a result: its verdict, or how far the run came if it was stopped before that.
    None if there is nothing to say."""
    verdict = run.part(Verdict)
    if verdict:
        return verdict.text
    training = run.part(Training)
    if training is None:
        return _probes_not_learnt(run)
    if run.active:
        return None
    return _stopped(run, training)


def _probes_not_learnt(run: Run) -> str | None:
    short = []
    for name, found in (
        ("Associative recall", run.part(Recall)),
        ("Selective copying", run.part(Copying)),
    ):
        if found and not probe_learnt(found):
            short.append(f"{name} was not learnt: {_reached(found.training)}")
    if not short:
        return None
    return f"{'; '.join(short)}. No finding about the design; give it a larger budget."


def not_whole(run: Run) -> list[str]:
    """What is missing from the results, and why: one line per part and reason. Empty if everything
    that was asked for was measured.

    `Map incomplete: 640 tokens (12 of 50 trials), 768 tokens; the budget of 5 s was used up`."""
    return [
        *_lacks("Map", run.part(Map)),
        *_lacks("Associative recall", run.part(Recall)),
        *_lacks("Selective copying", run.part(Copying)),
        *_lacks("Loss by position", run.part(LossByPosition)),
    ]


def _lacks(name: str, found: Map | Recall | Copying | LossByPosition | None) -> list[str]:
    """One part's lines."""
    if found is None:
        return []
    by_reason: dict[str, list[str]] = {}
    for row in found.not_measured:
        missing = by_reason.setdefault(row.why, [])
        missing.append(_missing(row))
    return [f"{name} incomplete: {', '.join(rows)}; {why}" for why, rows in by_reason.items()]


def _missing(row: Missing) -> str:
    """One row that was not measured, or only with some of its trials."""
    measured = f"{row.measured:,} of {row.of:,}"
    if isinstance(row, MissingLength):
        what, unit = f"{row.context_len:,} tokens", "trials"
    elif isinstance(row, MissingPairs):
        what, unit = f"{row.n_pairs} pairs", "answers"
    else:
        return f"{measured} windows of the text"
    if not row.measured:
        return what
    return f"{what} ({measured} {unit})"


def _stopped(run: Run, training: TrainingRecord) -> str:
    found = run.part(Map)
    reached = _reached(training)
    if not found or not found.cells:
        return f"Stopped before the first cell of its map: {reached}."
    state = "It had not learnt its trained length, so the map is not a finding"
    if learnt(run):
        state = "It had learnt its trained length"
    return f"Stopped with {len(found.cells)} finished cells. {state}: {reached}."


def _reached(training: TrainingRecord) -> str:
    tokens = units.count(training.tokens)
    recalled = f"{training.accuracy:.0%} recalled at {training.length:,} tokens"
    return f"{recalled} after {tokens} training tokens"


class MapFacts(NamedTuple):
    """What to know about a map before comparing its numbers with another's. `proxy`: the proxy's
    layers, None if not known; `whole_lengths`: how many lengths have all their trials."""

    proxy: str | None
    learnt: bool
    whole_lengths: str
    trained_len: int
    seed: int


def map_facts(run: Run) -> MapFacts:
    """The facts of a run that has a map."""
    proxy = run.part(Proxy)
    pattern = None
    if proxy:
        pattern = proxy.pattern
    return MapFacts(
        proxy=pattern,
        learnt=learnt(run),
        whole_lengths=_whole_lengths(_map(run)),
        trained_len=scores_of(run).trained_len,
        seed=run.options["seed"],
    )


def _map(run: Run) -> Map:
    return run.part(Map) or Map()


def _whole_lengths(found: Map) -> str:
    """How many of the lengths of a map have all their trials: `5 of 8`."""
    all_trials = [cell for cell in found.cells if cell.trials == found.trials]
    whole = {cell.context_len for cell in all_trials}
    return f"{len(whole)} of {len(found.lengths)}"


def scores_of(run: Run) -> Scores:
    """The scores as stored, or those of the cells so far. Earlier versions stored no interval of
    the effective context; then it is computed from the cells."""
    found = run.part(Scores)
    if found is None:
        return _scores_so_far(run)
    cells = _map(run).cells
    if found.effective_context_low is not None or not cells:
        return found
    reached = effective_context(cells)
    interval = {
        "effective_context": reached.estimate,
        "effective_context_low": reached.low,
        "effective_context_high": reached.high,
        "censored": reached.censored,
    }
    return found.model_copy(update=interval)


def reach(found: Scores) -> str:
    """The effective context in tokens, as an interval: `512 to 640`; `≥ 1,024` if no longer context
    was tested; `none`."""
    high = found.effective_context_high
    if high is None:
        high = found.effective_context
    low = found.effective_context_low
    end = f"{high:,}"
    if found.censored:
        end = f"≥ {end}"
    if low is not None and low < high:
        return f"{low:,} to {end}"
    if not high:
        return "none"
    return end


def _scores_so_far(run: Run) -> Scores:
    """Scores of the cells that a stopped run has finished."""
    found = _map(run)
    training = run.part(Training)
    tokens_to_learn = None
    if training:
        tokens_to_learn = training.tokens_to_learn
    return scores(found.cells, found.trained_len or 0, tokens_to_learn)


def unlike(runs: Sequence[Run]) -> list[str]:
    """The options in which runs differ although they must agree for a comparison: `trained length
    256, 512 tokens`."""
    asked = [_asked(run) for run in runs]
    if not asked:
        return []
    lines = []
    for what in asked[0]:
        distinct = sorted({options[what] for options in asked})
        if len(distinct) > 1:
            listed = ", ".join(map(str, distinct))
            lines.append(what.format(listed))
    return lines


def _asked(run: Run) -> dict[str, Any]:
    """The options that decide how much a run can learn, with defaults filled in."""
    options = NiahOptions.make(**run.options)
    device_type, _, _ = run.device.partition(":")
    scale = options.scale(device_type)
    return {
        "budget {} s": round(options.budget_s),
        "d_model {}": scale.d_model,
        "trained length {} tokens": scale.trained_len,
        "device {}": run.device,
    }


def latest_of_each(runs: Sequence[Run]) -> list[Run]:
    """The newest run of every design, newest first."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=_newest_first):
        newest.setdefault(run.spec_yaml, run)
    return list(newest.values())


def _newest_first(run: Run) -> int:
    return -run.id
