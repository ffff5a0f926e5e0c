"""The guided start: three questions, three designs."""

import streamlit as st

from hybrid_core import hardware
from hybrid_core.glossary import explain
from hybrid_core.guide import ROLES, Need, Proposal, left_out, propose
from hybrid_core.paper_check import throughput_ratios
from hybrid_core.report import units
from pages.parts import design, draft, work

SIZES, ANSWERS = ("350M", "1B", "3B"), "guide.answers"
DEFAULTS = {"wish": "quality", "size": "1B", "speed": 0}


@st.dialog("Guided start", width="large", icon=":material/explore:")
def ask() -> None:
    """The questions, and what follows from the answers."""
    need = _questions()
    proposals = propose(need)
    reached = [row["ratio"] for row in throughput_ratios()]
    st.markdown(f"**{len(proposals)} {'design' if len(proposals) == 1 else 'designs'} that the paper trained**")
    if need.min_tokens_per_s and not any(proposal.candidate.proof for proposal in proposals):
        st.caption(
            f"The paper measured no {need.size} hybrid at {need.min_tokens_per_s:,.0f} tokens/s a sequence in such a use (Table 13)."
        )
    for column, proposal in zip(st.columns(3), proposals, strict=False):
        with column.container(border=True):
            _card(proposal, need)
    st.caption(
        f"Speed is a ceiling, for each sequence; the paper's own code reached {min(reached):.0%} to {max(reached):.0%} of such ceilings "
        "(page Paper). NLL: differences below 0.01 hardly show. Not proposed, since the paper warns of them where something far back must "
        f"be recalled: {', '.join(left_out(need)) or 'none'}."
    )


def _questions() -> Need:
    """What was answered before stands there again."""
    known, view, before = hardware.devices(), design.view(), st.session_state.get(ANSWERS) or DEFAULTS
    contexts = sorted({*work.CONTEXTS, view.workload.context_len})
    left, right = st.columns(2)
    context = left.select_slider(
        "What is your context?", contexts, view.workload.context_len, format_func=units.length, help=explain("context")
    )
    device = right.selectbox(
        "Your GPU?", list(known), list(known).index(view.hardware), format_func=lambda key: known[key].name, help=explain("accelerator")
    )
    left, right = st.columns(2)  # a row of its own, so that the Tab key goes from left to right
    wish = left.segmented_control("Quality or speed?", list(ROLES), default=before["wish"], format_func=str.capitalize, required=True)
    size = right.segmented_control(
        "Size of the model", SIZES, default=before["size"], required=True, help="Larger is better and slower. The paper says most about 1B"
    )
    left, right = st.columns(2)
    speed = left.number_input(
        "At least (tokens/s a sequence)",
        min_value=0,
        value=before["speed"],
        step=10,
        help="Of each sequence; 0: any speed",
    )
    batch = right.number_input(
        "Sequences at the same time", min_value=1, max_value=65536, value=view.workload.batch_size, help=explain("batch")
    )
    st.session_state[ANSWERS] = {"wish": wish, "size": size, "speed": speed}
    return Need(context_len=context, hardware=device, wish=wish, size=size, batch_size=int(batch), min_tokens_per_s=float(speed))


def _card(proposal: Proposal, need: Need) -> None:
    found = proposal.candidate
    st.markdown(f"**{proposal.role}**  \n{design.plain(found.spec.name)}")
    if found.problem:
        st.warning(design.plain(found.problem))
    elif found.doubt:
        st.warning(design.plain(found.doubt))
    elif found.proof:
        st.success(design.plain(found.proof))
    speed, cache = units.rate(found.tokens_per_s), units.n_bytes(found.cache_bytes)
    st.markdown(f"**{found.nll:.3f}** NLL (quoted)  \n**{speed}** decode a sequence (predicted ceiling)  \n**{cache}** cache (exact)")
    if st.button("Open this design", key=f"guide-{found.spec.name}", on_click=_take, args=(proposal, need), type="primary"):
        st.rerun()
    for line in proposal.trade_offs:
        st.caption(design.plain(line))


def _take(proposal: Proposal, need: Need) -> None:
    """The design and the answers become the view."""
    design.change(design=proposal.candidate.spec, workload=need.workload, hardware=need.hardware)
    draft.load(proposal.candidate.spec)
    work.load(design.view(), anew=True)
