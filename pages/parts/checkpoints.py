"""The paper's own needle test (Appendix K) on a trained model."""

from typing import Any

import streamlit as st

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.retrieval.options import PAPER_LENGTHS, CheckpointOptions
from hybrid_core.report.figures.retrieval import retrieval_map
from hybrid_core.results.checkpoint import Checkpoint
from hybrid_core.results.retrieval import Map
from hybrid_core.runs.store import Run
from pages.parts import asked, chart, design, jobs, layout

TASKS = {"niah_single": "one needle", "niah_multikey": "one needle among three others"}


def draw() -> None:
    """Draw the tab."""
    st.markdown(
        "The paper's protocol (Appendix K) on a trained model: a folder on this machine in Hugging "
        "Face format, with its tokenizer. A magic number is hidden in a text at eleven depths, and "
        "the model is asked for it."
    )
    options = _controls()
    if st.button(
        "Start checkpoint test",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not options["path"],
    ):
        jobs.start(lambda: _job(options))
    jobs.queue()
    jobs.show("checkpoint", _result, "No checkpoint tested yet.")


def _controls() -> dict[str, Any]:
    device, task, trials = layout.cells(3, 240)
    fields = CheckpointOptions.model_fields
    return {
        "device": jobs.device_choice(device, "checkpoint.device"),
        "task": asked.choice(task, "Task", CheckpointOptions, "task", written=_task),
        "trials": asked.number(
            trials,
            "Trials per cell",
            CheckpointOptions,
            "trials",
            step=50,
            key="checkpoint.trials",
        ),
        "path": st.text_input(
            "Folder of the checkpoint",
            placeholder="/home/me/models/my-hybrid-1b",
            help=asked.says(fields["path"]),
        ),
        "lengths": sorted(
            st.multiselect(
                "Contexts (tokens)",
                PAPER_LENGTHS,
                default=PAPER_LENGTHS,
                help=asked.says(fields["lengths"]),
            )
        ),
    }


def _task(name: str) -> str:
    return f"{name}: {TASKS[name]}"


def _job(options: dict[str, Any]) -> tuple[ArchSpec, CheckpointOptions]:
    """The design that the folder describes, and the options of the test. Raises SpecError with one
    line."""
    made = CheckpointOptions.make(**options)
    return made.design(), made


def _result(run: Run) -> None:
    """The map, and what is missing from it."""
    jobs.headline(run)
    found = run.part(Checkpoint)
    if found:
        _what_was_left_out(found)
    if run.part(Map):
        chart.show(retrieval_map(run), f"map-{run.id}")


def _what_was_left_out(found: Checkpoint) -> None:
    for row in found.not_run:
        st.warning(f"{row.context_len:,} tokens not run: {row.why}")
    if found.dropped:
        st.caption(design.plain(found.dropped))
