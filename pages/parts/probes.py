"""Three more tests of small proxies: associative recall, selective copying, loss by position."""

import streamlit as st

from hybrid_core.live.retrieval import texts
from hybrid_core.live.retrieval.options import NOTE, ProbeOptions, least_text_bytes
from hybrid_core.report.figures.retrieval import retrieval_charts
from hybrid_core.report.retrieval import reading
from hybrid_core.runs.store import Run
from pages.parts import asked, chart, design, jobs, layout, proxies


def draw() -> None:
    """Draw the tab."""
    spec = design.current()
    st.markdown(
        f"Three more tests of small proxies of **{design.plain(spec.name)}** `{spec.pattern}`: how "
        "many pairs of key and value it keeps (associative recall), whether it picks symbols out "
        "of noise (selective copying), and how its loss falls along a text that you provide. "
        f"{NOTE}"
    )
    options = proxies.controls("probes")
    text = _text_control(options["trained_len"])
    if st.button("Start probes", type="primary", icon=":material/play_arrow:"):
        jobs.start(lambda: (spec, _options(text, options)))
    jobs.queue()
    jobs.show(
        "probes",
        _result,
        "No probes yet. Start them above: they share the budget.",
    )


def _text_control(trained_len: int) -> bytes:
    """A text from the user, uploaded or pasted; empty if there is none."""
    with st.expander(asked.says(ProbeOptions.model_fields["text_path"])):
        upload = st.file_uploader(
            "A text file",
            type=["txt", "md"],
            key="probes.upload",
        )
        pasted = st.text_area("or paste a text", key="probes.pasted")
        least = least_text_bytes(trained_len)
        st.caption(
            f"At least {least:,} bytes for this trained length. It stays in your data folder."
        )
    if upload:
        return upload.getvalue()
    return pasted.encode()


def _options(text: bytes, options: proxies.Asked) -> ProbeOptions:
    """The options, with the text stored in the data folder."""
    path = None
    if text:
        path = str(texts.keep(text, least_text_bytes(options["trained_len"])))
    return ProbeOptions.make(text_path=path, **options)


def _result(run: Run) -> None:
    """The verdict, what was not measured, and the charts."""
    jobs.headline(run)
    text = reading(run)
    if text:
        st.warning(design.plain(text))
    jobs.warn_of_gaps(run)
    _charts(run)


def _charts(run: Run) -> None:
    """A chart for each probe that has begun."""
    drawn = enumerate(retrieval_charts([run]))
    chart.row({f"probe-{run.id}-{index}": figure for index, figure in drawn}, layout.WIDE)
