"""The guided start: a few questions, and up to three designs that answer them."""

from typing import Any

import pandas as pd
import streamlit as st

from hybrid_core.evidence.guide import ROLES, Need, Proposal, candidates, left_out, propose
from hybrid_core.glossary import explain
from hybrid_core.interop.link import View
from hybrid_core.report import units
from hybrid_core.speed import hardware
from pages.parts import design, draft, layout, work

SIZES = ("350M", "1B", "3B")
KEPT = "guide.answers"  # Streamlit forgets controls that are not drawn
USUAL = {"wish": "quality", "size": "1B", "speed": 0}


@st.dialog("Guided start", width="large", icon=":material/explore:")
def ask() -> None:
    """The questions, and the designs that follow from the answers."""
    need = _questions()
    proposals = propose(need)
    _what_was_found(need, proposals)
    for column, proposal in zip(st.columns(3), proposals, strict=False):
        with column.container(border=True):
            _card(proposal, need)
    every = st.expander(
        f"All hybrids of {need.size} in this use",
        key=f"guide.every-{need.size}",
        on_change="rerun",
    )
    if every.open:
        with every:
            _all_candidates(need)
    _how_to_read(need)


def _what_was_found(need: Need, proposals: list[Proposal]) -> None:
    designs = "designs"
    if len(proposals) == 1:
        designs = "design"
    st.markdown(
        f"**{len(proposals)} {designs} that the paper trained**: architectures, not weights to load"
    )
    fast_enough = any(proposal.candidate.proof for proposal in proposals)
    if need.min_tokens_per_s and not fast_enough:
        st.caption(
            f"The paper measured no {need.size} hybrid at {need.min_tokens_per_s:,.0f} tokens/s "
            "per sequence in a similar use (Table 13)."
        )


def _how_to_read(need: Need) -> None:
    """What the numbers mean, and which designs are not proposed."""
    others = ", ".join(f"{design.plain(other.name)} ({other.why})" for other in left_out(need.size))
    st.caption(
        "Speed is a ceiling: what the device could do if it only read weights and cache. "
        "Losses are for models trained and tested at 8K tokens. Compare them within a size; "
        "differences below 0.01 hardly matter. "
        "The Retrieval page tests whether a design recalls distant tokens. "
        "Balanced: of the designs between the best and the fastest in both loss and speed, the one "
        f"that gives up least. Not proposed, because they are not hybrids with Mamba: {others}."
    )


def _questions() -> Need:
    """The questions, with the answers that were given before."""
    view = design.view()
    answers = _fill(view)
    contexts = sorted({*work.CONTEXTS, view.workload.context_len, answers["context"]})
    # Three rows of two columns, so that the Tab key goes from left to right.
    _ask_context_and_device(contexts)
    _ask_wish_and_size()
    _ask_speed_and_batch()
    given = {key: st.session_state[f"guide.{key}"] for key in answers}
    st.session_state[KEPT] = {key: given[key] for key in USUAL}
    return Need(
        context_len=given["context"],
        hardware=given["device"],
        wish=given["wish"],
        size=given["size"],
        batch_size=int(given["batch"]),
        min_tokens_per_s=float(given["speed"]),
    )


def _fill(view: View) -> dict[str, Any]:
    """Fill the empty controls, and return their initial answers."""
    of_the_view = {
        "context": view.workload.context_len,
        "device": view.hardware,
        "batch": view.workload.batch_size,
    }
    answers: dict[str, Any] = USUAL | of_the_view | st.session_state.get(KEPT, {})
    for key, answer in answers.items():
        st.session_state.setdefault(f"guide.{key}", answer)
    return answers


def _ask_context_and_device(contexts: list[int]) -> None:
    known = hardware.devices()
    left, right = st.columns(2)
    left.select_slider(
        "How long is your context?",
        contexts,
        format_func=units.length,
        key="guide.context",
        help=explain("context"),
    )
    right.selectbox(
        "Your GPU?",
        list(known),
        format_func=lambda key: known[key].name,
        key="guide.device",
        help=explain("accelerator"),
    )


def _ask_wish_and_size() -> None:
    left, right = st.columns(2)
    left.segmented_control(
        "Quality or speed?",
        list(ROLES),
        format_func=str.capitalize,
        required=True,
        key="guide.wish",
    )
    right.segmented_control(
        "Size of the model",
        SIZES,
        required=True,
        key="guide.size",
        help="Larger is better and slower. The paper says most about 1B",
    )


def _ask_speed_and_batch() -> None:
    left, right = st.columns(2)
    left.number_input(
        "At least (tokens/s per sequence)",
        min_value=0,
        step=10,
        key="guide.speed",
        help="0 means any speed",
    )
    right.number_input(
        "Sequences at the same time",
        min_value=1,
        max_value=65536,
        key="guide.batch",
        help=explain("batch"),
    )


def _card(proposal: Proposal, need: Need) -> None:
    """A proposed design: its role, its numbers, and what it gives up."""
    found = proposal.candidate
    st.markdown(f"**{proposal.role}**  \n{design.plain(found.spec.name)}")
    why_not = found.problem or found.doubt
    if why_not:
        st.warning(design.plain(why_not))
    elif found.proof:
        st.info(design.plain(found.proof))
    st.markdown(
        f"**{found.nll:.3f}** NLL (quoted)  \n"
        f"**{units.rate(found.tokens_per_s)}** per sequence (predicted ceiling)  \n"
        f"**{units.n_bytes(found.cache_bytes)}** cache (exact)"
    )
    if st.button(
        "Open this design",
        key=f"guide-{found.spec.name}",
        on_click=_open,
        args=(proposal, need),
        type="primary",
    ):
        st.rerun()  # closes the dialog
    for line in proposal.trade_offs:
        st.caption(design.plain(line))


def _all_candidates(need: Need) -> None:
    """Every design that the proposals were chosen from, the lowest loss first."""
    rows = {}
    for found in sorted(candidates(need), key=lambda found: found.nll):
        accuracy = ""
        if found.accuracy:
            accuracy = f"{found.accuracy:.1f} %"
        measured = "not measured"
        if found.measured:
            measured = units.rate(found.measured)
        rows[found.spec.name] = {
            "NLL (quoted)": f"{found.nll:.3f}",
            "accuracy (quoted)": accuracy,
            "cache (exact)": units.n_bytes(found.cache_bytes),
            "ceiling per sequence (predicted)": units.rate(found.tokens_per_s),
            "the paper on an H200, per sequence (quoted)": measured,
            "suits this use": found.problem or "yes",
        }
    layout.table(pd.DataFrame(rows).T)


def _open(proposal: Proposal, need: Need) -> None:
    """Set the view to the design and the answers."""
    design.change(
        design=proposal.candidate.spec,
        workload=need.workload,
        hardware=need.hardware,
    )
    draft.load(proposal.candidate.spec)
    work.load(design.view(), anew=True)
