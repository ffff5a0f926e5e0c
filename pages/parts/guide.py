"""The guided start: three questions, three designs."""

import pandas as pd
import streamlit as st

from hybrid_core.evidence.guide import ROLES, Need, Proposal, candidates, left_out, propose
from hybrid_core.glossary import explain
from hybrid_core.report import units
from hybrid_core.speed import hardware
from pages.parts import design, draft, layout, work

SIZES = ("350M", "1B", "3B")
KEPT = "guide.answers"  # Streamlit forgets controls that are not drawn
USUAL = {"wish": "quality", "size": "1B", "speed": 0}


@st.dialog("Guided start", width="large", icon=":material/explore:")
def ask() -> None:
    """The questions, and what follows from the answers."""
    need = _questions()
    proposals = propose(need)
    st.markdown(
        f"**{len(proposals)} {'design' if len(proposals) == 1 else 'designs'} that "
        "the paper trained**: architectures, not weights to load"
    )
    if need.min_tokens_per_s and not any(proposal.candidate.proof for proposal in proposals):
        st.caption(
            f"The paper measured no {need.size} hybrid at "
            f"{need.min_tokens_per_s:,.0f} tokens/s a sequence in such a use (Table "
            "13)."
        )
    for column, proposal in zip(st.columns(3), proposals, strict=False):
        with column.container(border=True):
            _card(proposal, need)
    others = ", ".join(f"{design.plain(other.name)} ({other.why})" for other in left_out(need.size))
    every = st.expander(
        f"All hybrids of {need.size} in this use", key=f"guide.every-{need.size}", on_change="rerun"
    )
    if every.open:
        with every:
            _every(need)
    st.caption(
        "Speed is a ceiling: what the device could do if it only read weights and "
        "cache. Losses are of models trained and asked at 8K; "
        "compare them within a size, where differences below 0.01 hardly show. "
        "Whether a design recalls what is far back: Retrieval. "
        "Balanced: of those that lie between best and fastest in both, the one that "
        "gives away least. Not proposed, since they are no "
        f"hybrids with Mamba: {others}."
    )


def _questions() -> Need:
    """What was answered before stands there again."""
    known, view = hardware.devices(), design.view()
    context = view.workload.context_len
    answers = (
        USUAL
        | {"context": context, "device": view.hardware, "batch": view.workload.batch_size}
        | st.session_state.get(KEPT, {})
    )
    for key, answer in answers.items():
        st.session_state.setdefault(f"guide.{key}", answer)
    contexts = sorted({*work.CONTEXTS, context, answers["context"]})
    left, right = st.columns(2)
    left.select_slider(
        "What is your context?",
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
    left, right = st.columns(2)  # a row of its own, so that the Tab key goes from left to right
    left.segmented_control(
        "Quality or speed?",
        list(ROLES),
        format_func=str.capitalize,
        required=True,
        key="guide.wish",
    )
    size_help = "Larger is better and slower. The paper says most about 1B"
    right.segmented_control(
        "Size of the model", SIZES, required=True, key="guide.size", help=size_help
    )
    left, right = st.columns(2)
    speed_help = "Of each sequence; 0: any speed"
    left.number_input(
        "At least (tokens/s a sequence)", min_value=0, step=10, key="guide.speed", help=speed_help
    )
    right.number_input(
        "Sequences at the same time",
        min_value=1,
        max_value=65536,
        key="guide.batch",
        help=explain("batch"),
    )
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


def _card(proposal: Proposal, need: Need) -> None:
    found = proposal.candidate
    st.markdown(f"**{proposal.role}**  \n{design.plain(found.spec.name)}")
    if why := found.problem or found.doubt:
        st.warning(design.plain(why))
    elif found.proof:
        st.info(design.plain(found.proof))
    speed, cache = units.rate(found.tokens_per_s), units.n_bytes(found.cache_bytes)
    st.markdown(
        f"**{found.nll:.3f}** NLL (quoted)  \n**{speed}** a sequence (predicted "
        f"ceiling)  \n**{cache}** cache (exact)"
    )
    if st.button(
        "Open this design",
        key=f"guide-{found.spec.name}",
        on_click=_take,
        args=(proposal, need),
        type="primary",
    ):
        st.rerun()
    for line in proposal.trade_offs:
        st.caption(design.plain(line))


def _every(need: Need) -> None:
    """All that the proposals were chosen from, the best first."""
    rows = {}
    for found in sorted(candidates(need), key=lambda found: found.nll):
        accuracy = f"{found.accuracy:.1f} %" if found.accuracy else ""
        measured = units.rate(found.measured) if found.measured else "not measured"
        rows[found.spec.name] = {
            "NLL (quoted)": f"{found.nll:.3f}",
            "accuracy (quoted)": accuracy,
            "cache (exact)": units.n_bytes(found.cache_bytes),
            "ceiling a sequence (predicted)": units.rate(found.tokens_per_s),
            "the paper on an H200, a sequence (quoted)": measured,
            "does": found.problem or "yes",
        }
    layout.table(pd.DataFrame(rows).T)


def _take(proposal: Proposal, need: Need) -> None:
    """The design and the answers become the view."""
    design.change(
        design=proposal.candidate.spec,
        workload=need.workload,
        hardware=need.hardware,
    )
    draft.load(proposal.candidate.spec)
    work.load(design.view(), anew=True)
