"""How retrieval runs may be read, and the one row of scores that compares designs. Words and
tables; charts are in figures.py."""

from collections.abc import Sequence
from typing import Any

from hybrid_core.live.retrieval.options import NiahOptions
from hybrid_core.live.retrieval.scores import reached, scores
from hybrid_core.report import units
from hybrid_core.runs.store import Run

PROBES = {"recall": "Associative recall", "copying": "Selective copying"}
PARTS = {"map": "Map", **PROBES, "text": "Loss by position"}


def learnt(run: Run) -> bool:
    """Whether a map shows what a design recalls, or only that its proxy has not learnt. A
    checkpoint's map stands: nothing is trained."""
    training, verdict = run.parts.get("training"), run.parts.get("verdict")
    if verdict:
        return bool(verdict["learnt"])
    return training is None or training["tokens_to_learn"] is not None


def probe_learnt(run: Run, part: str) -> bool:
    """Whether a probe's proxy learnt its task; a text is not learnt or not, its loss falls."""
    return part not in PROBES or run.parts[part]["training"]["tokens_to_learn"] is not None


def reading(run: Run) -> str | None:
    """What a result may be taken for: the verdict, or how far a run came that was stopped before
    it. None where nothing is to be said."""
    if verdict := run.parts.get("verdict"):
        return str(verdict["text"])
    if training := run.parts.get("training"):
        return None if run.active else _stopped(run, training)
    short = [
        f"{name} was not learnt: {_reached(run.parts[part]['training'])}"
        for part, name in PROBES.items()
        if part in run.parts and not probe_learnt(run, part)
    ]
    return (
        f"{'; '.join(short)}. No finding about the design; give it a larger budget."
        if short
        else None
    )


def not_whole(run: Run) -> list[str]:
    """What results lack, and why: a line for each part and reason; none where everything that was
    asked for was measured.

    `Map not whole: 640 tokens (12 of 50 trials), 768 tokens; the budget of 5 s was used up`."""
    lines = []
    for part, name in PARTS.items():
        missing: dict[str, list[str]] = {}
        for row in run.parts.get(part, {}).get(
            "not_measured", []
        ):  # earlier versions went on until everything was
            missing.setdefault(row["why"], []).append(_missing(row))
        lines += [f"{name} not whole: {', '.join(rows)}; {why}" for why, rows in missing.items()]
    return lines


def _missing(row: dict[str, Any]) -> str:
    """One row that was not measured, or not with all that was asked for."""
    measured = f"{row['measured']:,} of {row['of']:,}"
    if "context_len" in row:
        return f"{row['context_len']:,} tokens" + (
            f" ({measured} trials)" if row["measured"] else ""
        )
    if "n_pairs" in row:
        return f"{row['n_pairs']} pairs" + (f" ({measured} answers)" if row["measured"] else "")
    return f"{measured} windows of the text"


def _stopped(run: Run, training: dict[str, Any]) -> str:
    cells = run.parts.get("map", {}).get("cells")
    if not cells:
        return f"Stopped before the first cell of its map: {_reached(training)}."
    state = (
        "It had learnt its trained length"
        if learnt(run)
        else "It had not learnt its trained length, so the map is no finding"
    )
    return f"Stopped with {len(cells)} finished cells. {state}: {_reached(training)}."


def _reached(training: dict[str, Any]) -> str:
    tokens = units.count(training["tokens"])
    return f"{training['accuracy']:.0%} recalled at {training['length']:,} tokens after {tokens} training tokens"


def score_row(run: Run) -> dict[str, Any]:
    """One design: shares of needles recalled (over all depths), effective context and training
    tokens; None where it is not known."""
    found = scores_of(run)
    return {
        "run": run.id,
        "design": run.name,
        "proxy": run.parts.get("proxy", {}).get("pattern"),
        "learnt": learnt(run),
        "whole_lengths": _whole_lengths(run.parts["map"]),
        "at_trained_len": found["at_trained_len"],
        "at_1_5x": found["at_1_5x"],
        "effective_context": found["effective_context"],
        "reach": reach(found),
        "tokens_to_learn": found["tokens_to_learn"],
        "trained_len": found["trained_len"],
        "seed": run.options["seed"],
    }


def _whole_lengths(found: dict[str, Any]) -> str:
    """How many of the lengths of a map have all their trials: `5 of 8`."""
    whole = {cell["context_len"] for cell in found["cells"] if cell["trials"] == found["trials"]}
    return f"{len(whole)} of {len(found['lengths'])}"


def scores_of(run: Run) -> dict[str, Any]:
    """The scores as stored, or those of the cells so far; what earlier versions did not store of
    the effective context, cells tell."""
    found = run.parts.get("scores") or _scores_so_far(run)
    cells = run.parts.get("map", {}).get("cells")
    if "effective_context_low" in found or not cells:
        return found
    return found | reached(cells)


def reach(found: dict[str, Any]) -> str:
    """The effective context in tokens, as an interval: `512 to 640`; `>= 1,024` where no longer
    context was asked; `none`."""
    high = found.get("effective_context_high", found["effective_context"])
    low = found.get("effective_context_low", high)
    end = f"≥ {high:,}" if found.get("censored") else f"{high:,}"
    if low < high:
        return f"{low:,} to {end}"
    return end if high else "none"


def _scores_so_far(run: Run) -> dict[str, Any]:
    """Scores of the cells that a stopped run has finished."""
    found = run.parts["map"]
    return scores(found["cells"], found["trained_len"], run.parts["training"]["tokens_to_learn"])


def unlike(runs: Sequence[Run]) -> list[str]:
    """In what the runs differ, though rows are comparable only where they agree: `trained length
    256, 512 tokens`."""
    asked = [_asked(run) for run in runs]
    values = {what: sorted({one[what] for one in asked}) for one in asked[:1] for what in one}
    return [
        what.format(", ".join(map(str, found))) for what, found in values.items() if len(found) > 1
    ]


def _asked(run: Run) -> dict[str, Any]:
    """What decides how much a run may learn, defaults filled in."""
    options = NiahOptions.make(**run.options)
    scale = options.scale(run.device.split(":")[0])
    found = {
        "budget {} s": round(options.budget_s),
        "d_model {}": scale.d_model,
        "trained length {} tokens": scale.trained_len,
    }
    return found | {"device {}": run.device}


def latest_of_each(runs: Sequence[Run]) -> list[Run]:
    """The newest run of every design, newest first."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: -run.id):
        newest.setdefault(run.spec_yaml, run)
    return list(newest.values())
