"""How retrieval runs may be read, and the one row of scores that compares designs. Words and tables; charts are in figures.py."""

from collections.abc import Sequence
from typing import Any

from hybrid_core.report import units
from hybrid_core.retrieval.scores import scores
from hybrid_core.runs.store import Run

SAME = ("budget_s", "d_model", "trained_len", "device")  # options that must agree before rows are compared


def learnt(run: Run) -> bool:
    """Whether a map shows what a design recalls, or only that its proxy has not learnt. A checkpoint's map stands: nothing is trained."""
    training, verdict = run.parts.get("training"), run.parts.get("verdict")
    if verdict:
        return bool(verdict["learnt"])
    return training is None or training["tokens_to_learn"] is not None


def reading(run: Run) -> str | None:
    """What a map may be taken for: the verdict, or how far a run came that was stopped before it. None while it runs."""
    if verdict := run.parts.get("verdict"):
        return str(verdict["text"])
    training = run.parts.get("training")
    if run.active or not training:
        return None
    reached = (
        f"{training['accuracy']:.0%} recalled at {training['length']:,} tokens after {units.count(training['tokens'])} training tokens"
    )
    cells = len(run.parts.get("map", {}).get("cells", ()))
    state = "It had learnt its trained length" if learnt(run) else "It had not learnt its trained length, so the map is no finding"
    return f"Stopped with {cells} finished cells. {state}: {reached}."


def score_row(run: Run) -> dict[str, Any]:
    """One design: shares of needles recalled (over all depths), effective context and training tokens; None where it is not known."""
    found = run.parts.get("scores") or _scores_so_far(run)
    return {
        "run": run.id,
        "design": run.name,
        "proxy": run.parts.get("proxy", {}).get("pattern"),
        "learnt": learnt(run),
        "at_trained_len": found["at_trained_len"],
        "at_1_5x": found["at_1_5x"],
        "effective_context": found["effective_context"],
        "tokens_to_learn": found["tokens_to_learn"],
        "trained_len": found["trained_len"],
        "seed": run.options["seed"],
    }


def _scores_so_far(run: Run) -> dict[str, Any]:
    """Scores of the cells that a stopped run has finished."""
    found = run.parts["map"]
    return scores(found["cells"], found["trained_len"], run.parts["training"]["tokens_to_learn"])


def unlike(runs: Sequence[Run]) -> list[str]:
    """Options in which the runs differ, though rows are comparable only where they agree: `trained_len 256, 512`."""
    given = {name: sorted({str(run.options.get(name) or "default") for run in runs}) for name in SAME}
    return [f"{name} {', '.join(values)}" for name, values in given.items() if len(values) > 1]


def latest_of_each(runs: Sequence[Run]) -> list[Run]:
    """The newest run of every design, newest first."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: -run.id):
        newest.setdefault(run.spec_yaml, run)
    return list(newest.values())
